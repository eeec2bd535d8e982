"""Template of a method with a network and pretraining. The entry point of a package refers to `CARD`."""

from pathlib import Path

CARD = Path(__file__).with_name("card.yaml")
