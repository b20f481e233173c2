"""Every sentence of the drawn world in five languages: questions, captions of text and charts, fixed answers.

`{x.the}`, `{y.of_the}` .. are `vocabulary.Forms`; `{name}`, `{row}` .. are what is printed in the picture.
"""

from paligemma.scenes.vocabulary import LANGUAGES

# English / German / French / Spanish / Chinese
_PHRASES: dict[str, tuple[str, str, str, str, str]] = {
    "yes": ("yes", "ja", "oui", "sí", "是"),
    "no": ("no", "nein", "non", "no", "否"),
    "nothing": ("nothing", "nichts", "rien", "nada", "没有"),
    "count": (
        "{x.how_many} are there?",
        "{x.how_many} gibt es?",
        "{x.how_many} y a-t-il ?",
        "¿{x.how_many} hay?",
        "有{x.how_many}？",
    ),
    "color": (
        "what color is {name}?",
        "welche Farbe hat {name}?",
        "de quelle couleur est {name} ?",
        "¿de qué color es {name}?",
        "{name}是什么颜色？",
    ),
    "presence": (
        "is there {x.a}?",
        "ist {x.a} im Bild?",
        "y a-t-il {x.a} ?",
        "¿hay {x.a}?",
        "有{x.one}吗？",
    ),
    "is left": (
        "is {x.the} left of {y.of_the}?",
        "ist {x.the} links von {y.of_the}?",
        "est-ce que {x.the} est à gauche {y.of_the} ?",
        "¿está {x.the} a la izquierda {y.of_the}?",
        "{x.one}在{y.one}的左边吗？",
    ),
    "is right": (
        "is {x.the} right of {y.of_the}?",
        "ist {x.the} rechts von {y.of_the}?",
        "est-ce que {x.the} est à droite {y.of_the} ?",
        "¿está {x.the} a la derecha {y.of_the}?",
        "{x.one}在{y.one}的右边吗？",
    ),
    "is above": (
        "is {x.the} above {y.of_the}?",
        "ist {x.the} über {y.of_the}?",
        "est-ce que {x.the} est au-dessus {y.of_the} ?",
        "¿está {x.the} por encima {y.of_the}?",
        "{x.one}在{y.one}的上面吗？",
    ),
    "is below": (
        "is {x.the} below {y.of_the}?",
        "ist {x.the} unter {y.of_the}?",
        "est-ce que {x.the} est au-dessous {y.of_the} ?",
        "¿está {x.the} por debajo {y.of_the}?",
        "{x.one}在{y.one}的下面吗？",
    ),
    "what left": (
        "what is left of {y.of_the}?",
        "was ist links von {y.of_the}?",
        "qu'est-ce qui est à gauche {y.of_the} ?",
        "¿qué hay a la izquierda {y.of_the}?",
        "{y.one}的左边是什么？",
    ),
    "what right": (
        "what is right of {y.of_the}?",
        "was ist rechts von {y.of_the}?",
        "qu'est-ce qui est à droite {y.of_the} ?",
        "¿qué hay a la derecha {y.of_the}?",
        "{y.one}的右边是什么？",
    ),
    "what above": (
        "what is above {y.of_the}?",
        "was ist über {y.of_the}?",
        "qu'est-ce qui est au-dessus {y.of_the} ?",
        "¿qué hay por encima {y.of_the}?",
        "{y.one}的上面是什么？",
    ),
    "what below": (
        "what is below {y.of_the}?",
        "was ist unter {y.of_the}?",
        "qu'est-ce qui est au-dessous {y.of_the} ?",
        "¿qué hay por debajo {y.of_the}?",
        "{y.one}的下面是什么？",
    ),
    "bigger": (
        "which is bigger, {x.the} or {y.the}?",
        "was ist größer, {x.the} oder {y.the}?",
        "qu'est-ce qui est plus grand, {x.the} ou {y.the} ?",
        "¿qué es más grande, {x.the} o {y.the}?",
        "{x.one}和{y.one}哪个更大？",
    ),
    "smaller": (
        "which is smaller, {x.the} or {y.the}?",
        "was ist kleiner, {x.the} oder {y.the}?",
        "qu'est-ce qui est plus petit, {x.the} ou {y.the} ?",
        "¿qué es más pequeño, {x.the} o {y.the}?",
        "{x.one}和{y.one}哪个更小？",
    ),
    "written": (
        "what is written?",
        "was steht da?",
        "qu'est-ce qui est écrit ?",
        "¿qué está escrito?",
        "写了什么？",
    ),
    "written first": (
        "what is written at the top?",
        "was steht oben?",
        "qu'est-ce qui est écrit en haut ?",
        "¿qué está escrito arriba?",
        "上面写了什么？",
    ),
    "written last": (
        "what is written at the bottom?",
        "was steht unten?",
        "qu'est-ce qui est écrit en bas ?",
        "¿qué está escrito abajo?",
        "下面写了什么？",
    ),
    "highest": (
        "which has the highest value?",
        "was hat den höchsten Wert?",
        "qu'est-ce qui a la plus grande valeur ?",
        "¿qué tiene el valor más alto?",
        "哪个的数值最高？",
    ),
    "lowest": (
        "which has the lowest value?",
        "was hat den niedrigsten Wert?",
        "qu'est-ce qui a la plus petite valeur ?",
        "¿qué tiene el valor más bajo?",
        "哪个的数值最低？",
    ),
    "value": (
        "what is the value of {name}?",
        "welchen Wert hat {name}?",
        "quelle est la valeur de {name} ?",
        "¿cuál es el valor de {name}?",
        "{name}的数值是多少？",
    ),
    "higher": (
        "is {name} higher than {other}?",
        "ist {name} höher als {other}?",
        "est-ce que {name} est plus grand que {other} ?",
        "¿es {name} mayor que {other}?",
        "{name}比{other}高吗？",
    ),
    "title": (
        "what is the title?",
        "wie lautet der Titel?",
        "quel est le titre ?",
        "¿cuál es el título?",
        "标题是什么？",
    ),
    "cell": (
        "what is the value of {column} in {row}?",
        "welchen Wert hat {column} in {row}?",
        "quelle est la valeur de {column} dans {row} ?",
        "¿cuál es el valor de {column} en {row}?",
        "{row}的{column}是多少？",
    ),
    "highest row": (
        "which row has the highest {column}?",
        "welche Zeile hat den höchsten Wert bei {column}?",
        "quelle ligne a la plus grande valeur de {column} ?",
        "¿qué fila tiene el valor más alto de {column}?",
        "哪一行的{column}最高？",
    ),
    "a bar chart": (
        "a bar chart of {name}",
        "ein Balkendiagramm zu {name}",
        "un diagramme en barres de {name}",
        "un gráfico de barras de {name}",
        "{name}的柱状图",
    ),
    "a line chart": (
        "a line chart of {name}",
        "ein Liniendiagramm zu {name}",
        "un diagramme en lignes de {name}",
        "un gráfico de líneas de {name}",
        "{name}的折线图",
    ),
    "a pie chart": (
        "a pie chart of {name}",
        "ein Kreisdiagramm zu {name}",
        "un diagramme circulaire de {name}",
        "un gráfico circular de {name}",
        "{name}的饼图",
    ),
    "a table": (
        "a table with {rows} and {columns}",
        "eine Tabelle mit {rows} und {columns}",
        "un tableau avec {rows} et {columns}",
        "una tabla con {rows} y {columns}",
        "有{rows}和{columns}的表格",
    ),
    "printed": (
        "{lines} of text",
        "{lines} Text",
        "{lines} de texte",
        "{lines} de texto",
        "{lines}字",
    ),
    "handwritten": (
        "{lines} of handwriting",
        "{lines} Handschrift",
        "{lines} d'écriture manuscrite",
        "{lines} de escritura a mano",
        "{lines}手写字",
    ),
    "moves left": ("moves left", "bewegt sich nach links", "va vers la gauche", "se mueve a la izquierda", "向左移动"),
    "moves right": ("moves right", "bewegt sich nach rechts", "va vers la droite", "se mueve a la derecha", "向右移动"),
    "moves up": ("moves up", "bewegt sich nach oben", "va vers le haut", "se mueve hacia arriba", "向上移动"),
    "moves down": ("moves down", "bewegt sich nach unten", "va vers le bas", "se mueve hacia abajo", "向下移动"),
    "growing": ("grows", "wird größer", "grandit", "crece", "变大"),
    "shrinking": ("shrinks", "wird kleiner", "rétrécit", "encoge", "变小"),
    "turning": ("turns", "dreht sich", "tourne", "gira", "旋转"),
    "doing": (
        "what does {x.the} do?",
        "was macht {x.the}?",
        "que fait {x.the} ?",
        "¿qué hace {x.the}?",
        "{x.one}在做什么？",
    ),
}  # fmt: skip


def phrase(key: str, language: str, **words: object) -> str:
    """A sentence of the table with its words filled in."""
    return _PHRASES[key][LANGUAGES.index(language)].format(**words)


def motion_phrase(motion: str, language: str) -> str:
    """What a thing does, as a predicate: `moves left`."""
    return phrase(motion if motion in _PHRASES else f"moves {motion}", language)
