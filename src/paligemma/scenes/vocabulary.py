"""The words of the drawn world in five languages, and the little grammar it takes to agree them.

`forms(label, language, color)` gives every form of a noun (with its colour) that a sentence needs. To add a label or
colour, add a row to `NOUNS` or `COLORS`; to add a language, a column and a `Grammar`.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

LANGUAGES = ("en", "de", "fr", "es", "zh")


class Noun(NamedTuple):
    """`gender` m, f or n; for Chinese the measure word. German `dative`: after `dem` or `der`."""

    gender: str
    one: str
    many: str
    dative: str


# English | German with its article | French | Spanish | Chinese with its measure word; a fourth German word: the dative
NOUNS = """
airplane airplanes    | das Flugzeug Flugzeuge           | m avion avions           | m avión aviones        | 架 飞机
apple apples          | der Apfel Äpfel                  | f pomme pommes           | f manzana manzanas     | 个 苹果
arrow arrows          | der Pfeil Pfeile                 | f flèche flèches         | f flecha flechas       | 个 箭头
ball balls            | der Ball Bälle                   | m ballon ballons         | f pelota pelotas       | 个 球
bicycle bicycles      | das Fahrrad Fahrräder            | m vélo vélos             | f bicicleta bicicletas | 辆 自行车
bird birds            | der Vogel Vögel                  | m oiseau oiseaux         | m pájaro pájaros       | 只 鸟
boat boats            | das Boot Boote                   | m bateau bateaux         | m barco barcos         | 艘 船
book books            | das Buch Bücher                  | m livre livres           | m libro libros         | 本 书
bottle bottles        | die Flasche Flaschen             | f bouteille bouteilles   | f botella botellas     | 个 瓶子
bus buses             | der Bus Busse                    | m bus bus                | m autobús autobuses    | 辆 公交车
butterfly butterflies | der Schmetterling Schmetterlinge | m papillon papillons     | f mariposa mariposas   | 只 蝴蝶
cactus cactuses       | der Kaktus Kakteen               | m cactus cactus          | m cactus cactus        | 棵 仙人掌
car cars              | das Auto Autos                   | f voiture voitures       | m coche coches         | 辆 汽车
carrot carrots        | die Karotte Karotten             | f carotte carottes       | f zanahoria zanahorias | 根 胡萝卜
castle castles        | die Burg Burgen                  | m château châteaux       | m castillo castillos   | 座 城堡
cat cats              | die Katze Katzen                 | m chat chats             | m gato gatos           | 只 猫
chair chairs          | der Stuhl Stühle                 | f chaise chaises         | f silla sillas         | 把 椅子
cherry cherries       | die Kirsche Kirschen             | f cerise cerises         | f cereza cerezas       | 颗 樱桃
clock clocks          | die Uhr Uhren                    | f horloge horloges       | m reloj relojes        | 个 时钟
cloud clouds          | die Wolke Wolken                 | m nuage nuages           | f nube nubes           | 朵 云
crab crabs            | die Krabbe Krabben               | m crabe crabes           | m cangrejo cangrejos   | 只 螃蟹
crown crowns          | die Krone Kronen                 | f couronne couronnes     | f corona coronas       | 顶 皇冠
cup cups              | die Tasse Tassen                 | f tasse tasses           | f taza tazas           | 个 杯子
dog dogs              | der Hund Hunde                   | m chien chiens           | m perro perros         | 只 狗
elephant elephants    | der Elefant Elefanten Elefanten  | m éléphant éléphants     | m elefante elefantes   | 头 大象
fish fish             | der Fisch Fische                 | m poisson poissons       | m pez peces            | 条 鱼
flower flowers        | die Blume Blumen                 | f fleur fleurs           | f flor flores          | 朵 花
guitar guitars        | die Gitarre Gitarren             | f guitare guitares       | f guitarra guitarras   | 把 吉他
hammer hammers        | der Hammer Hämmer                | m marteau marteaux       | m martillo martillos   | 把 锤子
hat hats              | der Hut Hüte                     | m chapeau chapeaux       | m sombrero sombreros   | 顶 帽子
heart hearts          | das Herz Herzen Herzen           | m cœur cœurs             | m corazón corazones    | 颗 心
house houses          | das Haus Häuser                  | f maison maisons         | f casa casas           | 座 房子
key keys              | der Schlüssel Schlüssel          | f clé clés               | f llave llaves         | 把 钥匙
ladder ladders        | die Leiter Leitern               | f échelle échelles       | f escalera escaleras   | 架 梯子
lamp lamps            | die Lampe Lampen                 | f lampe lampes           | f lámpara lámparas     | 盏 灯
moon moons            | der Mond Monde                   | f lune lunes             | f luna lunas           | 个 月亮
mushroom mushrooms    | der Pilz Pilze                   | m champignon champignons | f seta setas           | 个 蘑菇
rabbit rabbits        | das Kaninchen Kaninchen          | m lapin lapins           | m conejo conejos       | 只 兔子
rocket rockets        | die Rakete Raketen               | f fusée fusées           | m cohete cohetes       | 枚 火箭
snail snails          | die Schnecke Schnecken           | m escargot escargots     | m caracol caracoles    | 只 蜗牛
snake snakes          | die Schlange Schlangen           | m serpent serpents       | f serpiente serpientes | 条 蛇
star stars            | der Stern Sterne                 | f étoile étoiles         | f estrella estrellas   | 颗 星星
sun suns              | die Sonne Sonnen                 | m soleil soleils         | m sol soles            | 个 太阳
tree trees            | der Baum Bäume                   | m arbre arbres           | m árbol árboles        | 棵 树
turtle turtles        | die Schildkröte Schildkröten     | f tortue tortues         | f tortuga tortugas     | 只 乌龟
umbrella umbrellas    | der Regenschirm Regenschirme     | m parapluie parapluies   | m paraguas paraguas    | 把 雨伞
windmill windmills    | die Windmühle Windmühlen         | m moulin moulins         | m molino molinos       | 座 风车
object objects        | das Objekt Objekte               | m objet objets           | m objeto objetos       | 个 物体
bar bars              | der Balken Balken                | f barre barres           | f barra barras         | 根 柱子
point points          | der Punkt Punkte                 | m point points           | m punto puntos         | 个 点
slice slices          | das Stück Stücke                 | f part parts             | f porción porciones    | 个 扇形
row rows              | die Zeile Zeilen                 | f ligne lignes           | f fila filas           | - 行
column columns        | die Spalte Spalten               | f colonne colonnes       | f columna columnas     | - 列
line lines            | die Zeile Zeilen                 | f ligne lignes           | f línea líneas         | - 行
"""

# English | German (* not inflected) | French m f mm ff | Spanish m f mm ff (one form: for all four) | Chinese
COLORS = """
red       | rot     | rouge rouge rouges rouges         | rojo roja rojos rojas                 | 红色
orange    | orange* | orange                            | naranja                               | 橙色
yellow    | gelb    | jaune jaune jaunes jaunes         | amarillo amarilla amarillos amarillas | 黄色
green     | grün    | vert verte verts vertes           | verde verde verdes verdes             | 绿色
turquoise | türkis* | turquoise                         | turquesa                              | 青色
blue      | blau    | bleu bleue bleus bleues           | azul azul azules azules               | 蓝色
purple    | lila*   | violet violette violets violettes | morado morada morados moradas         | 紫色
pink      | rosa*   | rose rose roses roses             | rosa                                  | 粉色
brown     | braun   | marron                            | marrón marrón marrones marrones       | 棕色
black     | schwarz | noir noire noirs noires           | negro negra negros negras             | 黑色
gray      | grau    | gris grise gris grises            | gris gris grises grises               | 灰色
white     | weiß    | blanc blanche blancs blanches     | blanco blanca blancos blancas         | 白色
"""

NUMBERS = {
    "en": ("no", "one", "two", "three", "four"),
    "de": ("kein", "ein", "zwei", "drei", "vier"),
    "fr": ("aucun", "un", "deux", "trois", "quatre"),
    "es": ("ningún", "un", "dos", "tres", "cuatro"),
    "zh": ("零", "一", "两", "三", "四"),
}
AND = {"en": (", ", " and "), "de": (", ", " und "), "fr": (", ", " et "), "es": (", ", " y "), "zh": ("、", "和")}


@dataclass(frozen=True, kw_only=True)
class Forms:
    """A noun, perhaps with a colour, as sentences need it.

    Attributes:
        one, many: `red cat`, `red cats`.
        a: `a red cat`, nominative.
        the: `the red cat`, nominative.
        of_the: what follows `left of`: `the red cat`, `der roten Katze`, `du chat rouge`, `del gato rojo`.
        how_many: `how many red cats`.
        groups: `a red cat`, `two red cats`, .. by number from one on.
    """

    one: str
    many: str
    a: str
    the: str
    of_the: str
    how_many: str
    groups: tuple[str, ...]


def listed(parts: list[str], language: str) -> str:
    """`a`, `a and b`, `a, b and c`."""
    comma, last = AND[language]
    return last.join(filter(None, [comma.join(parts[:-1]), *parts[-1:]]))


@cache
def color_word(color: str, language: str) -> str:
    """The name of a colour, as the answer to `what color is ..?`."""
    return _color_row(color)[LANGUAGES.index(language)].split()[0].rstrip("*")


@cache
def forms(label: str, language: str, color: str | None = None) -> Forms:
    """Every form of a noun, with a colour where one is given."""
    return GRAMMARS[language](_noun(label, language), color)


@cache
def _table(rows: str) -> dict[str, tuple[str, ...]]:
    cells = [tuple(cell.strip() for cell in row.split("|")) for row in rows.strip().splitlines()]
    return {row[0].split()[0]: row for row in cells}


def _color_row(color: str) -> tuple[str, ...]:
    return _table(COLORS)[color]


def _noun(label: str, language: str) -> Noun:
    words = _table(NOUNS)[label][LANGUAGES.index(language)].split()
    if language == "en":
        return Noun("n", words[0], words[1], words[0])
    if language == "zh":
        return Noun(words[0].strip("-"), words[1], words[1], words[1])
    gender = {"der": "m", "die": "f", "das": "n"}.get(words[0], words[0])
    return Noun(gender, words[1], words[2], words[3] if len(words) > 3 else words[1])


def _english(noun: Noun, color: str | None) -> Forms:
    one, many = (f"{color} {word}" if color else word for word in (noun.one, noun.many))
    a = f"{'an' if one[0] in 'aeiou' else 'a'} {one}"
    groups = (a, *(f"{number} {many}" for number in NUMBERS["en"][2:]))
    the = f"the {one}"
    return Forms(one=one, many=many, a=a, the=the, of_the=the, how_many=f"how many {many}", groups=groups)


def _german(noun: Noun, color: str | None) -> Forms:
    """Mixed inflection after `ein`, weak after `der`, strong in the plural."""
    word = _color_row(color)[1] if color else ""
    fixed, stem = word.endswith("*"), word.rstrip("*")

    def with_color(ending: str, noun_form: str) -> str:
        return f"{stem}{'' if fixed else ending} {noun_form}" if stem else noun_form

    the, dative = {"m": ("der", "dem"), "f": ("die", "der"), "n": ("das", "dem")}[noun.gender]
    one = with_color({"m": "er", "f": "e", "n": "es"}[noun.gender], noun.one)
    many = with_color("e", noun.many)
    a = f"{'eine' if noun.gender == 'f' else 'ein'} {one}"
    return Forms(
        one=one,
        many=many,
        a=a,
        the=f"{the} {with_color('e', noun.one)}",
        of_the=f"{dative} {with_color('en', noun.dative)}",
        how_many=f"wie viele {many}",
        groups=(a, *(f"{number} {many}" for number in NUMBERS["de"][2:])),
    )


def _romance(language: str, noun: Noun, color: str | None) -> tuple[str, str, str, tuple[str, ...]]:
    """One, many, `un ..` and the groups: colours follow the noun and agree with it."""
    feminine = noun.gender == "f"
    one, many = noun.one, noun.many
    if color:
        words = _color_row(color)[LANGUAGES.index(language)].split()
        words = words * 4 if len(words) == 1 else words
        one, many = f"{one} {words[feminine]}", f"{many} {words[2 + feminine]}"
    a = f"{NUMBERS[language][1]}{('e' if language == 'fr' else 'a') if feminine else ''} {one}"
    return one, many, a, (a, *(f"{number} {many}" for number in NUMBERS[language][2:]))


def _french(noun: Noun, color: str | None) -> Forms:
    one, many, a, groups = _romance("fr", noun, color)
    elided = noun.one[0] in "aeiouéèêh"  # no h aspiré among our nouns
    the = f"l'{one}" if elided else f"{'la' if noun.gender == 'f' else 'le'} {one}"
    of_the = f"du {one}" if the.startswith("le ") else f"de {the}"
    how_many = f"combien d'{many}" if elided else f"combien de {many}"
    return Forms(one=one, many=many, a=a, the=the, of_the=of_the, how_many=how_many, groups=groups)


def _spanish(noun: Noun, color: str | None) -> Forms:
    one, many, a, groups = _romance("es", noun, color)
    the = f"{'la' if noun.gender == 'f' else 'el'} {one}"
    of_the = f"del {one}" if noun.gender == "m" else f"de {the}"
    how_many = f"cuánt{'a' if noun.gender == 'f' else 'o'}s {many}"
    return Forms(one=one, many=many, a=a, the=the, of_the=of_the, how_many=how_many, groups=groups)


def _chinese(noun: Noun, color: str | None) -> Forms:
    one = f"{_color_row(color)[4]}的{noun.one}" if color else noun.one
    groups = tuple(f"{number}{noun.gender}{one}" for number in NUMBERS["zh"][1:])
    how_many = f"几{noun.gender}{one}"
    return Forms(one=one, many=one, a=groups[0], the=one, of_the=one, how_many=how_many, groups=groups)


GRAMMARS = {"en": _english, "de": _german, "fr": _french, "es": _spanish, "zh": _chinese}
