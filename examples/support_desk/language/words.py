"""The desk's vocabulary: names of customers, streets and cities."""

from __future__ import annotations

FIRST_NAMES = """Ada Alan Amir Anna Ben Bruno Carla Clara David Diego Elena Emil Emma Erik Eva Felix Flora
Grace Hana Hugo Ines Ivan Jonas Julia Karl Lara Leo Lena Liam Luca Marco Maria Marta Maya Mila Nadia Nils
Nora Oscar Paula Rita Robert Rosa Sara Simon Sofia Tara Theo Victor Yara""".split()

LAST_NAMES = """Adams Bauer Becker Bell Berg Blum Brown Carter Castro Cohen Cole Cruz Diaz Evans Fischer
Ford Garcia Gray Haas Hall Hart Hoffman Jensen Jones Keller Khan Kim King Koch Kumar Lang Lopez Martin Meyer
Miller Moreno Nagy Novak Olsen Park Perez Ramos Reyes Rossi Sato Silva Singh Smith Stein Tanaka""".split()

STREETS = """Oak Elm Pine Cedar Maple Birch Lake River Hill Park Mill Church Station Garden Meadow Forest
Spring Valley Bridge Market Castle Harbor Bay Rose""".split()

CITIES = """Berlin Lyon Porto Oslo Turin Leeds Basel Graz Tartu Bern Namur Riga York Bonn Lund Pisa Kiel
Linz Metz Bari Ulm Bergen Vigo Delft""".split()

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

MATERIALS = ("Oak", "Pine", "Linen", "Wool", "Steel", "Glass", "Cork", "Stone")
NOUNS = ("chair", "table", "shelf", "rug", "mirror", "stool", "vase", "sofa", "basket", "kettle")
COLOURS = ("red", "blue", "green", "white", "black", "grey", "yellow")
