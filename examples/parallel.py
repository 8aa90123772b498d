"""Many threads predict at once on one copy of the weights: MindSpore Lite's ModelParallelRunner."""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor

import weightd as mslite
from weightd.demo.digits import LENET, images_and_labels
from weightd.weights.arrays import Array

ROUNDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="at once")
    parser.add_argument("--threads", type=int, default=8, help="that ask")
    options = parser.parse_args()

    context = mslite.Context()
    context.cpu.thread_num = 1
    context.parallel.workers_num = options.workers
    runner = mslite.ModelParallelRunner()
    runner.build_from_file(str(LENET), context)

    def digit_in(image: Array) -> int:
        inputs = runner.get_inputs()
        inputs[0].set_data_from_numpy(image)
        return int(runner.predict(inputs)[0].get_data_to_numpy().argmax())

    images, labels = images_and_labels()
    with ThreadPoolExecutor(options.threads) as threads:
        began_s = time.perf_counter()
        found = list(threads.map(digit_in, [image for _ in range(ROUNDS) for image in images]))
        took_s = time.perf_counter() - began_s

    right = sum(digit == labels[n % len(labels)] for n, digit in enumerate(found))
    print(
        f"{options.workers} workers on one copy of the weights, {options.threads} threads that ask:"
    )
    print(f"{len(found)} predictions in {took_s:.2f} s, {right / len(found):.1%} of them right")


if __name__ == "__main__":
    main()
