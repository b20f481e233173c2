"""How good a model is: questions, their grading, figures by language, class and kind, reports."""
