"""Somebody who uses a published model, with nothing but transformers: run as a script, in a process of its own.

It reads a request from standard input (JSON: ``model``, ``revision``, ``images``, ``batch_size``, ``answers``) and
writes the scores of every image to the file ``answers``, one JSON line each after a first line about itself.
"""

import json
import sys


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    import transformers

    classifier = transformers.pipeline("image-classification", model=request["model"], revision=request["revision"])
    if any(name.split(".")[0] == "hf_imgcls" for name in sys.modules):
        raise RuntimeError("a consumer has nothing of hf_imgcls")
    with open(request["answers"], "w", encoding="utf-8") as file:
        num_labels = classifier.model.config.num_labels
        labels = [classifier.model.config.id2label[number] for number in range(num_labels)]
        about = {"device_type": classifier.device.type, "transformers": transformers.__version__, "labels": labels}
        json.dump(about, file)
        file.write("\n")
        size = request["batch_size"]
        for start in range(0, len(request["images"]), size):
            images = request["images"][start : start + size]
            for answer in classifier(images, batch_size=size, top_k=num_labels):
                json.dump(answer, file)
                file.write("\n")


if __name__ == "__main__":
    main()
