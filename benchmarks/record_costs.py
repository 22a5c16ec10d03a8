"""Count what every backbone of the comparison costs, and record it in the package.

    python benchmarks/record_costs.py

writes mambaout_mm/comparison/costs.csv, which `tools/compare.py` shows for the catalogue's
backbones; `tools/compare.py --check` counts again and fails where the record differs.
"""

from mambaout_mm.comparison.catalogue import CONTROL, ENTRIES
from mambaout_mm.comparison.counting import RECORDED, Count, count_costs
from mambaout_mm.files import write_csv


def main() -> None:
    rows = []
    for entry in (*ENTRIES, CONTROL):
        print(entry.name, flush=True)
        for cost in count_costs(entry):
            numbers = cost.count._asdict() if cost.count else dict.fromkeys(Count._fields, '')
            rows.append(
                dict(backbone=entry.name, model=cost.model, size=cost.size)
                | numbers
                | dict(note=cost.note)
            )
    write_csv(RECORDED, rows)


if __name__ == '__main__':
    main()
