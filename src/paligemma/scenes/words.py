"""What is printed and written in the drawn world: words of four languages in capitals, letters and digits, prices.

Words are everyday ones without accents, so that every character is in `faces.CHARACTERS`.
"""

import random

WORDS: tuple[str, ...] = tuple(
    """
    APPLE ART BAG BAKE BALL BANK BAR BATH BEACH BED BEE BEST BIG BIKE BLUE BOOK BOX BOY BREAD BUS BUY CAFE CAKE CALL
    CITY CLEAN CLOCK CLOSED COAT COFFEE COLD COOK CORN COW CUP DANCE DAY DEEP DESK DOCK DOOR DOWN DRINK EAST EASY EGG
    END ENTER EXIT FARM FAST FILM FIRE FISH FIVE FOOD FORK FREE FRESH FUN GAME GATE GIFT GIRL GOLD GOOD GREEN HALF HAT
    HELLO HELP HILL HOME HOT HOTEL ICE INFO JAM JAZZ JOB JOY JUICE KEEP KEY KING KIWI LAKE LAND LEFT LEMON LIFE LIGHT
    LION LOVE LUCK LUNCH MAP MENU MILK MOON MORE MOVIE MUSIC NEW NEWS NICE NINE NORTH NUT OCEAN OFF OLD ONE OPEN OVEN
    PARK PEN PIANO PIZZA PLAY POOL POST PULL PUSH QUEEN QUICK QUIET QUIZ RADIO RAIN RED REST RICE RING ROAD ROCK ROOM
    ROSE SALE SALT SAND SCHOOL SEA SEVEN SHIP SHOE SHOP SHOW SILVER SKY SLOW SNOW SOAP SOFT SONG SOUP SOUTH SPA STAR
    START STAY STOP STORE SUGAR SUN SWIM TAXI TEA TEN TEST THREE TICKET TIME TOWN TOY TRAIN TREE TWO VAN VIEW WAIT WALK
    WALL WARM WASH WATER WAY WEST WIND WINE WOLF WOOD YES ZERO ZONE ZOO
    ABEND ACHT APFEL ARZT AUTO BAHN BALD BAUM BERG BETT BIER BILD BLATT BLAU BOOT BRIEF BROT BUCH DANKE DORF DREI EINS
    ENDE ERDE FELD FENSTER FEUER FRAU FREI GARTEN GAST GELB GELD GLAS GRAU GUT HAFEN HALT HAUS HEUTE HIER HOF HOLZ
    HUND INSEL JAHR KAFFEE KATZE KELLER KIND KINO KOPF LICHT LUFT MARKT MAUS MEER MILCH MONTAG NACHT NEIN OBST
    OFEN PFERD PLATZ RATHAUS REGEN REISE SAFT SALZ SCHNEE SEIFE SOMMER SONNE SPIEL STADT TAG TANTE TASSE TOR UHR VIER
    VOGEL WALD WASSER WEG WELT WINTER WOCHE WURST ZAHN ZEIT ZIMMER ZUG
    AMI ANNEAU ARBRE AUBE AVION BAIN BATEAU BEURRE BLANC BLEU BOIS BONJOUR BRAS CARTE CHAT CHEVAL CHIEN CIEL CINQ CLEF
    COEUR COQ DEUX EAU FEU FLEUR FROMAGE GARE GRAND HIVER HUIT JARDIN JOUR JUPE LAC LAIT LIVRE LUNE MAIN MAISON MARCHE
    MATIN MER MIEL MOIS MUR NEIGE NUIT OISEAU OUVERT PAIN PLAGE PLUIE POIRE POMME PONT PORTE ROI ROUGE ROUTE RUE SEL
    SOIF SOLEIL SORTIE TABLE TEMPS THE TROIS VACHE VENT VERT VIE VILLE VIN
    AGUA AMIGO ARROZ AVENA AZUL BARCO BESO BLANCO BOCA BOSQUE BUENO CABALLO CAJA CALLE CALOR CAMA CAMPO CARNE CARTA
    CASA CENA CIELO CINCO CIUDAD CUATRO DEDO DINERO DOS ENERO ESTE FIESTA FLOR FUEGO GATO HIELO HOLA HUEVO ISLA JUEGO
    LAGO LECHE LIBRO LLAVE LUNA LUZ MADERA MANO MESA MONTE MUNDO NIEVE NOCHE NORTE NUEVO OCHO OESTE PAN PATO
    PERRO PLATO PLAYA PUERTA QUESO REY RIO ROJO ROPA SAL SALIDA SIETE SOL SOPA TARDE TIENDA TREN TRES UVA VACA VERDE
    VIENTO VINO ZAPATO
    """.split()
)
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

# A capital O beside digits looks like 0 and an I like 1: mixed strings do without.
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
MIXED = "ABCDEFGHJKLMNPRSTUVWXYZ" + DIGITS

LONGEST_LINE = 13  # characters, so that a line of the smallest print fits into the picture
LINE_COUNTS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4)
WORD_COUNTS = (1, 1, 1, 2, 2, 3)


def draw_word(rng: random.Random, longest: int = 8) -> str:
    """A word, now and then a string of letters or digits, a number, a price or a word with `!` or `?`."""
    roll = rng.random()
    if roll < 0.62:
        return rng.choice([word for word in WORDS if len(word) <= longest])
    if roll < 0.68:
        return rng.choice([word for word in WORDS if len(word) < longest]) + rng.choice("!?")
    return draw_string(rng, min(longest, 5))


def draw_string(rng: random.Random, longest: int = 5) -> str:
    """What cannot be guessed from its beginning: letters, letters and digits, a whole number or a price."""
    longest = max(longest, 2)
    roll = rng.random()
    if roll < 0.3:
        return "".join(rng.choices(LETTERS, k=rng.randint(2, longest)))
    if roll < 0.55:
        mixed = "".join(rng.choices(MIXED, k=rng.randint(2, longest)))
        return mixed if len(mixed) < 4 or rng.random() < 0.8 else f"{mixed[:2]}-{mixed[3:]}"
    if roll < 0.8 or longest < 4:
        return str(rng.randint(1, 10 ** rng.randint(1, min(longest, 4)) - 1))
    return f"{rng.randint(0, 99 if longest > 4 else 9)}.{rng.choice((0, 5, 20, 25, 49, 50, 75, 90, 95, 99)):02d}"


def draw_texts(rng: random.Random) -> list[str]:
    """1 to 4 lines of 1 to 3 words each, all different."""
    texts: list[str] = []
    for _ in range(rng.choice(LINE_COUNTS)):
        text = draw_line(rng)
        if text not in texts:
            texts.append(text)
    return texts


def draw_line(rng: random.Random) -> str:
    """1 to 3 words, at most `LONGEST_LINE` characters with their spaces."""
    count = rng.choice(WORD_COUNTS)
    if count > 1 and rng.random() < 0.1:
        return f"{draw_word(rng, 5).rstrip('!?')} & {draw_word(rng, 5).rstrip('!?')}"
    line = draw_word(rng)
    for _ in range(count - 1):
        room = LONGEST_LINE - len(line) - 1
        if room >= 4:
            line += " " + draw_word(rng, min(room, 8))
    return line
