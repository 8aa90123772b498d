"""Three processes share one copy of the weights, by MindSpore Lite's API and multiprocessing.

Nobody runs a daemon here: the first process shares its model with those on its list. If a daemon
runs, the weights are held there, and the script stays as it is.
"""

import multiprocessing
from multiprocessing.connection import Connection

import weightd as mslite
from weightd.demo.digits import LENET, images_and_labels

WORKERS = 2


def built(**section: str) -> mslite.Model:
    context = mslite.Context()
    context.target = ["cpu"]
    context.cpu.thread_num = 1
    model = mslite.Model()
    model.build_from_file(
        str(LENET), mslite.ModelType.MINDIR, context, config_dict={"cpu_context": section}
    )
    return model


def right_answers(model: mslite.Model, first: int) -> int:
    """Of every third image."""
    images, labels = images_and_labels()
    inputs = model.get_inputs()
    right = 0
    for image, label in zip(images[first::3], labels[first::3], strict=True):
        inputs[0].set_data_from_numpy(image)
        right += int(model.predict(inputs)[0].get_data_to_numpy().argmax() == label)
    return right


def work(number: int, pipe: Connection) -> None:
    """A worker: its PID goes to the master, and a handle comes back."""
    pipe.send(mslite.Model().get_model_info("current_pid"))
    model = built(shareable_weight_mem_handle=pipe.recv())
    pipe.send(right_answers(model, number))


def main() -> None:
    spawning = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(WORKERS):
        ours, theirs = spawning.Pipe()
        pipes.append(ours)
        processes.append(spawning.Process(target=work, args=(number, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a worker that dies ends our recv()

    pids = [pipe.recv() for pipe in pipes]
    model = built(shareable_weight_pid_list=", ".join(pids))
    handle = model.get_model_info("shareable_weight_mem_handle")
    print(f"this process shares its weights with {' and '.join(pids)}, under the handle {handle}")
    for pipe in pipes:
        pipe.send(handle)

    print(f"this process has {right_answers(model, WORKERS)} of 120 digits right")
    for pid, pipe in zip(pids, pipes, strict=True):
        print(f"process {pid} has {pipe.recv()} of 120 digits right")
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
