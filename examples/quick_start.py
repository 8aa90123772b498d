"""One model in this process, by MindSpore Lite's API: build it, fill its input, predict."""

import weightd as mslite
from weightd.demo.digits import LENET, images_and_labels


def main() -> None:
    context = mslite.Context()
    context.target = ["cpu"]
    context.cpu.thread_num = 1

    model = mslite.Model()
    model.build_from_file(str(LENET), mslite.ModelType.MINDIR, context)
    for tensor in model.get_inputs():
        print(f"input  {tensor.name!r}: {tensor.dtype.name} {tensor.shape}")
    for meta in model.get_outputs():
        print(f"output {meta.name!r}: {meta.dtype.name} {meta.shape}")

    images, labels = images_and_labels()
    inputs = model.get_inputs()
    inputs[0].set_data_from_numpy(images[0])
    (output,) = model.predict(inputs)

    scores = output.get_data_to_numpy().ravel()
    for row in images[0, 0, 0, ::2]:
        print("   ", "".join(" .+#"[min(3, int(pixel + 0.9))] for pixel in row))
    for digit, score in enumerate(scores):
        print(f"{digit}: {score:7.2f}", "<--" if digit == scores.argmax() else "")
    print(f"The model takes this picture for a {scores.argmax()}; it is a {labels[0]}.")


if __name__ == "__main__":
    main()
