"""Count what backbones of the comparison cost, and record it in the package.

    python benchmarks/record_costs.py           # all of them: six minutes
    python benchmarks/record_costs.py VMamba-T  # these alone; the others keep their records

writes mambaout_mm/comparison/costs.csv, which `tools/compare.py` shows for the catalogue's
backbones; `tools/compare.py --check` counts again and fails where the record differs.
"""

import argparse

from mambaout_mm.comparison.catalogue import CONTROL, ENTRIES
from mambaout_mm.comparison.counting import RECORDED, Count, count_costs, recorded_costs
from mambaout_mm.files import write_csv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = {network.name: network for network in (*ENTRIES, CONTROL)}
    parser.add_argument('names', nargs='*', metavar='NAME', help='default: all')
    names = parser.parse_args().names
    unknown = set(names) - set(networks)
    if unknown:
        parser.error(
            f'{", ".join(sorted(unknown))}: no such backbone; known: {", ".join(networks)}'
        )
    rows = []
    for name, network in networks.items():
        if names and name not in names:
            costs = recorded_costs().get(name, [])
        else:
            print(name, flush=True)
            costs = count_costs(network)
        for cost in costs:
            numbers = cost.count._asdict() if cost.count else dict.fromkeys(Count._fields, '')
            rows.append(
                dict(backbone=name, model=cost.model, size=cost.size)
                | numbers
                | dict(note=cost.note)
            )
    write_csv(RECORDED, rows)


if __name__ == '__main__':
    main()
