"""`python -m benchmarks [--json]`: what weightd costs, against the least that it could cost here.

Under a minute. Every number is measured in this run, weightd and its floor in turns.
"""

import argparse

from benchmarks import attach, predict, publish, report


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    comparisons = [*attach.compare(), *publish.compare(), *predict.compare()]
    machine = report.Machine.here()
    if options.json:
        print(report.as_json(machine, comparisons))
    else:
        report.show(machine, comparisons)


if __name__ == "__main__":
    main()
