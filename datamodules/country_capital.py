"""Countries and capitals: which country is it the capital of?

    They spent a week in Paris, the capital of    ->    France

The corrupt prompt has the capital of another country, so that nothing but the fact tells the two apart; that country is
the distractor. The task is that of Hanna et al. (2024), "Have Faith in Faithfulness"; the texts are our own.
"""

from __future__ import annotations

from collections.abc import Iterator

from lightning_circuits.datamodules.tasks import TaskDataModule, filled, partner, sweep
from lightning_circuits.datamodules.tokenising import PromptPair

__all__ = ["CAPITALS", "TEMPLATES", "CountryCapitalDataModule"]

TEMPLATES = (
    "They spent a week in {CAPITAL}, the capital of",
    "The train was bound for {CAPITAL}, the capital of",
    "He was born in {CAPITAL}, the capital of",
    "The summit was held in {CAPITAL}, the capital of",
    "Her parents live in {CAPITAL}, the capital of",
    "The company has an office in {CAPITAL}, the capital of",
    "We took a flight to {CAPITAL}, the capital of",
    "The new museum opened in {CAPITAL}, the capital of",
    "She studied law in {CAPITAL}, the capital of",
    "The embassy moved to {CAPITAL}, the capital of",
    "A letter arrived from {CAPITAL}, the capital of",
)

CAPITALS = tuple(
    tuple(line.strip().split(" / "))
    for line in """
    Abuja / Nigeria
    Accra / Ghana
    Addis Ababa / Ethiopia
    Algiers / Algeria
    Amman / Jordan
    Ankara / Turkey
    Antananarivo / Madagascar
    Ashgabat / Turkmenistan
    Astana / Kazakhstan
    Asuncion / Paraguay
    Athens / Greece
    Baghdad / Iraq
    Baku / Azerbaijan
    Bamako / Mali
    Bangkok / Thailand
    Beijing / China
    Beirut / Lebanon
    Belgrade / Serbia
    Berlin / Germany
    Bern / Switzerland
    Bishkek / Kyrgyzstan
    Bogota / Colombia
    Brasilia / Brazil
    Bratislava / Slovakia
    Brussels / Belgium
    Bucharest / Romania
    Budapest / Hungary
    Buenos Aires / Argentina
    Cairo / Egypt
    Canberra / Australia
    Caracas / Venezuela
    Cardiff / Wales
    Conakry / Guinea
    Copenhagen / Denmark
    Dakar / Senegal
    Damascus / Syria
    Delhi / India
    Dhaka / Bangladesh
    Dodoma / Tanzania
    Doha / Qatar
    Dublin / Ireland
    Dushanbe / Tajikistan
    Edinburgh / Scotland
    Gaborone / Botswana
    Hanoi / Vietnam
    Harare / Zimbabwe
    Havana / Cuba
    Helsinki / Finland
    Islamabad / Pakistan
    Jakarta / Indonesia
    Kabul / Afghanistan
    Kampala / Uganda
    Kathmandu / Nepal
    Khartoum / Sudan
    Kigali / Rwanda
    Kingston / Jamaica
    Kuala Lumpur / Malaysia
    Kyiv / Ukraine
    Libreville / Gabon
    Lima / Peru
    Lisbon / Portugal
    Ljubljana / Slovenia
    London / England
    Luanda / Angola
    Lusaka / Zambia
    Madrid / Spain
    Managua / Nicaragua
    Maputo / Mozambique
    Mexico City / Mexico
    Minsk / Belarus
    Mogadishu / Somalia
    Monrovia / Liberia
    Montevideo / Uruguay
    Moscow / Russia
    Muscat / Oman
    Nairobi / Kenya
    Niamey / Niger
    Nicosia / Cyprus
    Oslo / Norway
    Ottawa / Canada
    Paramaribo / Suriname
    Paris / France
    Phnom Penh / Cambodia
    Port au Prince / Haiti
    Quito / Ecuador
    Rabat / Morocco
    Reykjavik / Iceland
    Riga / Latvia
    Rome / Italy
    Sanaa / Yemen
    Santiago / Chile
    Sarajevo / Bosnia
    Skopje / Macedonia
    Sofia / Bulgaria
    Stockholm / Sweden
    Sucre / Bolivia
    Suva / Fiji
    Tallinn / Estonia
    Tashkent / Uzbekistan
    Tbilisi / Georgia
    Tegucigalpa / Honduras
    Tehran / Iran
    Thimphu / Bhutan
    Tirana / Albania
    Tokyo / Japan
    Tripoli / Libya
    Tunis / Tunisia
    Ulaanbaatar / Mongolia
    Valletta / Malta
    Vienna / Austria
    Vientiane / Laos
    Vilnius / Lithuania
    Warsaw / Poland
    Windhoek / Namibia
    Yaounde / Cameroon
    Yerevan / Armenia
    Zagreb / Croatia
    """.strip().splitlines()
)


class CountryCapitalDataModule(TaskDataModule):
    """A capital, and the country that it is the capital of; the distractor is the country of another capital.

    No capital and no country stands in prompts of two splits. Capitals of as many tokens, whose countries are of as
    many, stand in for each other; all come equally often. A country of several tokens makes a pair that does not fit.
    The places of a prompt are CAPITAL and END; its group is its template. Arguments: see `TaskDataModule`.
    """

    def candidates(self, split: str) -> Iterator[PromptPair]:
        of_capital = self.token_counts([capital for capital, _ in CAPITALS], "in")
        of_country = self.token_counts([country for _, country in CAPITALS], "of")

        def shape(names: tuple[str, ...]) -> tuple[int, int]:
            capital, country = names
            return of_capital[capital], of_country[country]

        names = self.share(split, CAPITALS, "capitals", kind=shape)
        for number, (template, (capital, country)) in enumerate(sweep(TEMPLATES, names)):
            other, its_country = partner(names, number, alike=shape)
            clean, places = filled(template, CAPITAL=capital)
            corrupt, _ = filled(template, CAPITAL=other)
            where = f"{split} prompt {number}"
            yield PromptPair(clean, corrupt, (f" {country}",), (f" {its_country}",), where, places, template)
