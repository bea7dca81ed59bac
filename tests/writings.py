"""Short texts in other alphabets, written for these tests."""

import random
import re

PASSAGES = {
    "greek": "Ο ήλιος ανατέλλει πάνω από τη θάλασσα και το φως του πέφτει στα λευκά σπίτια του νησιού. Οι ψαράδες "
    "γυρίζουν με τις βάρκες τους και τα παιδιά τρέχουν στην παραλία. Η μητέρα φωνάζει τα παιδιά για φαγητό. ",
    "german": "Über den Dächern der Stadt liegt früh am Morgen dichter Nebel, und die Straßen sind noch leer. Später "
    "öffnen die Bäcker ihre Läden; süße Brötchen und heißer Kaffee stehen auf großen Tischen. Wer möchte Käse dazu? ",
    "chinese": "早上太阳从山后升起,村里的人们开始工作。孩子们背着书包去学校,老人坐在树下喝茶。"
    "河水慢慢流过田野,鸟在天上飞。晚上大家回家吃饭,灯光照亮了小路。",
    "emoji": "Good morning 😀! The 🐱 sleeps on the 🛋️ and the 🐶 runs in the 🌳🌳. We eat 🍎 and 🍌, then 🚗 to the 🏖️. "
    "👩‍👩‍👧 is a family 🎉. ",
}


def writing(name, length):
    """The sentences of a passage in a random order, over and over."""
    sentences, stream, text = re.findall(r".*?[.!?。]\s*", PASSAGES[name]), random.Random(0), ""
    while len(text) < length:
        text += stream.choice(sentences)
    return text[:length]
