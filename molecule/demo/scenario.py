"""What Molecule's create and destroy call: keys for the demo playbook, and a fleet that is given them.

python -m demo.scenario create SPEC.yml --place DIR     DIR/keys, DIR/fleet; prints the inventory's path
python -m demo.scenario destroy --place DIR
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from demo import keys as demo_keys
from demo.__main__ import Stopper
from demo.script import IMAGE, remove, variables
from gantry.errors import GantryError
from testhosts import fleet
from testhosts.__main__ import say
from testhosts.spec import load


def create(place: Path, spec_file: Path) -> fleet.Fleet:
    """Make keys and hosts in *place*; whatever goes wrong, nothing of either stays."""
    spec = load(spec_file)
    remove(place)
    place.mkdir(parents=True)
    try:
        keys = demo_keys.make(place / "keys", IMAGE.split("/", maxsplit=1)[0])
        return fleet.create(replace(spec, vars={**spec.vars, **variables(keys)}), place / "fleet", say)
    except BaseException:
        remove(place)
        raise


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="demo.scenario", description=__doc__)
    parser.add_argument("verb", choices=["create", "destroy"])
    parser.add_argument("spec", type=Path, nargs="?")
    parser.add_argument("--place", type=Path, required=True)
    given = parser.parse_args()
    place = given.place.absolute()
    Stopper()
    try:
        if given.verb == "destroy":
            remove(place)
        elif given.spec is None:
            parser.error("create needs SPEC.yml")
        else:
            print(create(place, given.spec).inventory)
    except GantryError as error:
        print(f"demo.scenario: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
