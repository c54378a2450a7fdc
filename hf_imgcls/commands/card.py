"""Write a run's model card again, where it is or elsewhere.

hf-imgcls card RUN                                    # write RUN/README.md again
hf-imgcls card RUN --into model_cards/digits_vit_tiny # with the records it is made of
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--into", type=Path, help="copy the card's records there, and write the card there")
    parser.add_argument("--card_notes", type=Path, help="Markdown file with what the author adds")
    parser.add_argument("--license", help="licence of the model, as the Hub names it")
    arguments = parser.parse_args()

    from hf_imgcls.publish.card import check_card, write_card
    from hf_imgcls.publish.golden import copy_records

    folder = arguments.run if arguments.into is None else copy_records(arguments.run, arguments.into)
    license = {"license": arguments.license} if arguments.license else None
    print(write_card(folder, notes=arguments.card_notes, license=license))
    check_card(folder)
