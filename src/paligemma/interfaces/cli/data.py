"""`paligemma data ...`: the data people have <-> training rows."""

from cyclopts import App

app = App(name="data", help="Bring labelled data in, check it, and take it out again.")
