"""Facts that SmolLM2-135M-Instruct knows, by relation.

What of a longer list it did not know was left out, in one run over all candidates: a fact is here if, after the wording
of its relation, the likeliest of all tokens of the vocabulary is the first of the true object. The two other wordings
were not asked for that. Left out, too, are subjects for which two objects of the list would be true, such as countries
of several official languages, since the object that an edit is to is another of the same relation.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RELATIONS", "Relation"]


@dataclass(frozen=True)
class Relation:
    """Facts of one kind.

    Args:
        prompt: the wording, with `{subject}` where the subject stands; the object follows.
        paraphrases: other wordings.
        subjects: by the objects.
    """

    prompt: str
    paraphrases: tuple[str, ...]
    subjects: dict[str, tuple[str, ...]]


def _by_object(text: str) -> dict[str, tuple[str, ...]]:
    """Subjects by their objects, from `object: subject, subject; object: subject`."""
    entries = (" ".join(entry.split()).split(": ") for entry in text.split(";"))
    return {name: tuple(subjects.split(", ")) for name, subjects in entries}


RELATIONS = {
    "kind": Relation(
        "The {subject} is a kind of",
        (
            "The {subject} is a type of",
            "Everybody knows that the {subject} is a kind of",
        ),
        _by_object(
            """
            bird: sparrow, eagle, hawk, crow, swan, falcon, finch, woodpecker, ostrich, peacock, pelican, stork,
            blackbird, cuckoo; fish: salmon, trout, tuna, herring, carp, goldfish, sardine, halibut, mackerel, catfish,
            eel, piranha, swordfish, anchovy; tree: oak, pine, willow, elm, spruce, cypress, redwood; flower: tulip,
            daisy, lily, sunflower, violet, peony; fruit: apple, banana, pear, peach, mango, orange,
            lemon, strawberry, pineapple, apricot, papaya, melon; vegetable: broccoli, cauliflower; insect:
            beetle, grasshopper, cockroach; dog: dachshund, bulldog, greyhound, terrier, collie, spaniel, chihuahua;
            snake: viper, rattlesnake, anaconda, boa; instrument: violin, guitar, flute, piano, clarinet, cello; metal:
            copper, iron, aluminum, tin, zinc; cheese: cheddar, mozzarella, feta; boat: canoe, kayak; rock: basalt,
            sandstone; pasta: spaghetti
            """
        ),
    ),
    "capital": Relation(
        "They spent a week in {subject}, the capital of",
        (
            "Every child knows that {subject} is the capital of",
            "On the map we found {subject}, the capital city of",
        ),
        _by_object(
            """
            Ghana: Accra; Algeria: Algiers; Turkey: Ankara; Paraguay: Asuncion; Iraq: Baghdad; Azerbaijan: Baku;
            Thailand: Bangkok; China: Beijing; Serbia: Belgrade; Germany: Berlin; Colombia: Bogota; Brazil: Brasilia;
            Romania: Bucharest; Hungary: Budapest; Argentina: Buenos Aires; Egypt: Cairo; Australia: Canberra; Denmark:
            Copenhagen; India: Delhi; Bangladesh: Dhaka; Qatar: Doha; Ireland: Dublin; Scotland: Edinburgh; Vietnam:
            Hanoi; Cuba: Havana; Finland: Helsinki; Pakistan: Islamabad; Indonesia: Jakarta; Afghanistan: Kabul; Uganda:
            Kampala; Nepal: Kathmandu; Jamaica: Kingston; Malaysia: Kuala Lumpur; Ukraine: Kyiv; Peru: Lima; Portugal:
            Lisbon; Spain: Madrid; Mozambique: Maputo; Mexico: Mexico City; Somalia: Mogadishu; Uruguay: Montevideo;
            Russia: Moscow; Oman: Muscat; Kenya: Nairobi; Cyprus: Nicosia; Norway: Oslo; Canada: Ottawa; France: Paris;
            Cambodia: Phnom Penh; Morocco: Rabat; Iceland: Reykjavik; Italy: Rome; Yemen: Sanaa; Chile: Santiago;
            Bosnia: Sarajevo; Macedonia: Skopje; Sweden: Stockholm; Georgia: Tbilisi; Iran: Tehran; Japan: Tokyo; Libya:
            Tripoli; Mongolia: Ulaanbaatar; Laos: Vientiane; Lithuania: Vilnius; Poland: Warsaw; Croatia: Zagreb
            """
        ),
    ),
    "language": Relation(
        "In {subject}, the official language is",
        (
            "The official language of {subject} is",
            "The main language of {subject} is",
        ),
        _by_object(
            """
            French: France, Gabon, Togo; German: Germany, Austria, Liechtenstein; Spanish: Spain, Mexico, Argentina,
            Colombia, Chile, Peru, Ecuador, Venezuela, Cuba, Honduras, Guatemala, Nicaragua, Uruguay, Panama, Costa
            Rica, Bolivia, El Salvador; Portuguese: Portugal, Brazil, Angola, Mozambique; Italian: Italy, San Marino;
            English: England, Australia, Jamaica, Ghana, Nigeria, Barbados; Arabic: Egypt, Iraq, Syria, Jordan, Lebanon,
            Saudi Arabia, Qatar, Kuwait, Libya, Yemen, Oman, Tunisia, Algeria, Morocco; Russian: Russia; Mandarin:
            China; Japanese: Japan; Korean: South Korea; Turkish: Turkey; Dutch: the Netherlands; Swedish: Sweden;
            Norwegian: Norway; Polish: Poland; Hungarian: Hungary; Czech: the Czech Republic; Romanian: Romania,
            Moldova; Bulgarian: Bulgaria; Croatian: Croatia; Serbian: Serbia; Vietnamese: Vietnam; Thai: Thailand;
            Albanian: Albania; Mongolian: Mongolia; Lithuanian: Lithuania; Khmer: Cambodia; Lao: Laos; Armenian: Armenia
            """
        ),
    ),
    "city": Relation(
        "The city of {subject} is in the country of",
        (
            "My friend lives in {subject}, a city in the country of",
            "Tourists who visit the city of {subject} travel to the country of",
        ),
        _by_object(
            """
            Italy: Milan, Naples, Venice, Florence, Turin, Bologna, Genoa, Palermo, Verona, Pisa; Germany: Munich,
            Hamburg, Frankfurt, Cologne, Dresden, Leipzig, Stuttgart, Nuremberg; France: Lyon, Marseille, Nice,
            Bordeaux, Toulouse, Strasbourg, Lille, Nantes; Spain: Barcelona, Seville, Valencia, Granada, Bilbao, Malaga,
            Toledo; England: Liverpool, Birmingham, Leeds, Bristol, Oxford, York; Japan: Osaka, Kyoto, Hiroshima,
            Nagoya, Kobe, Nagasaki, Yokohama, Sapporo; China: Shanghai, Guangzhou, Shenzhen, Wuhan, Tianjin, Nanjing,
            Chengdu, Hangzhou; India: Mumbai, Kolkata, Chennai, Bangalore, Hyderabad, Pune, Jaipur; Brazil: Rio de
            Janeiro, Sao Paulo, Salvador, Recife; Russia: Saint Petersburg, Vladivostok, Novosibirsk; Turkey: Istanbul,
            Antalya; Australia: Sydney, Melbourne, Perth, Brisbane, Adelaide; Canada: Toronto, Vancouver, Montreal,
            Calgary, Winnipeg, Edmonton, Halifax, Quebec; Mexico: Tijuana, Cancun; Egypt: Alexandria, Luxor; Pakistan:
            Karachi, Lahore; Israel: Haifa; Scotland: Glasgow, Aberdeen; Poland: Krakow, Gdansk; Austria: Salzburg,
            Innsbruck; Switzerland: Zurich, Geneva, Basel; Portugal: Porto; Morocco: Marrakech, Casablanca; Nigeria:
            Lagos; Ireland: Cork, Galway; Belgium: Bruges; Sweden: Gothenburg, Malmo; Norway: Bergen
            """
        ),
    ),
}
"""The facts that are listed, by the names of their relations."""
