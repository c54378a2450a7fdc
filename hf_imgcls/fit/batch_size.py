"""The images behind one optimiser step stay the same, whatever a device holds and however many processes run."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from hf_imgcls.errors import LaunchError, OutputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from hf_imgcls.fit.checkpoints import Inspection

logger = logging.getLogger(__name__)

_ONEDNN_OUT_OF_MEMORY = ("could not create a primitive", "could not execute a primitive", "could not create a memory")


def resolve_batch_size(
    args: TrainingArguments,
    model: PreTrainedModel,
    image_size: tuple[int, int],
    checkpoint: Inspection | None,
    *,
    streaming: bool = False,
) -> None:
    """Decide how a step's images are divided over processes and micro-batches; changes ``args``.

    A resumed run keeps the images of its steps. ``auto_find_batch_size`` tries how many fit a device, unless the run
    has found that already, and accumulates as many micro-batches as that leaves.

    Args:
        args: ``per_device_train_batch_size``, ``gradient_accumulation_steps`` and ``auto_find_batch_size`` are read
            and set; the last one to false, since ``Trainer``'s own search changes the step's images.
        model: Tried out with ``auto_find_batch_size``; left as it was.
        image_size: Height and width of the model's input in pixels.
        checkpoint: What the run goes on from.
        streaming: Whether the training data is a stream, whose order depends on the division.

    Raises:
        LaunchError: The step's images cannot be divided over the processes, or one image does not fit the device.
        OutputError: The resumed run had steps of another size, or is a stream divided otherwise.
    """
    earlier = checkpoint.record.run if checkpoint is not None and checkpoint.record is not None else None
    per_device, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    wanted = per_device * accumulation * args.world_size
    finds, args.auto_find_batch_size = args.auto_find_batch_size, False
    if earlier is not None and finds:
        wanted = earlier.images_per_step
        if earlier.recipe.get("auto_find_batch_size"):
            # Found already; more processes on the same devices do not make room for more.
            per_device, finds = earlier.per_device_train_batch_size, False
    if finds:
        per_device, accumulation = divide_batch(wanted, args.world_size, per_device)
        args.per_device_train_batch_size, args.gradient_accumulation_steps = per_device, accumulation
        per_device = find_batch_size(model, args, image_size)
        accumulation = wanted // (per_device * args.world_size)
        logger.info("auto_find_batch_size: %d images at a time, %d times a step.", per_device, accumulation)
    elif earlier is None:
        pass
    elif earlier.world_size == args.world_size and earlier.images_per_step == wanted:
        accumulation = wanted // (per_device * args.world_size)
    elif earlier.world_size != args.world_size:
        per_device, accumulation = divide_batch(earlier.images_per_step, args.world_size, per_device)
        logger.warning(
            "The run had %d processes and goes on with %d: %d x %d images a step each, %d in all as before. Order and "
            "augmentation of the images stay the same; dropout and the order of sums do not, so that the weights are "
            "no longer equal bit for bit.",
            earlier.world_size, args.world_size, accumulation, per_device, earlier.images_per_step,
        )  # fmt: skip
    else:
        raise OutputError(
            f"a step is to have {wanted} images ({per_device} x {accumulation} x {args.world_size} processes)",
            f"{earlier.images_per_step}, as in the checkpoint: the place in the data is counted in steps",
            "keep per_device_train_batch_size x gradient_accumulation_steps, or choose another --output_dir",
        )
    if streaming and earlier is not None and (
        (per_device, args.world_size) != (earlier.per_device_train_batch_size, earlier.world_size)
    ):  # fmt: skip
        raise OutputError(
            f"a stream was read by {earlier.world_size} processes, {earlier.per_device_train_batch_size} images at a "
            f"time, and is to be read on by {args.world_size}, {per_device} at a time",
            "the same division, which decides a stream's order",
            "launch as before, or choose another --output_dir",
        )
    args.per_device_train_batch_size, args.gradient_accumulation_steps = per_device, accumulation


def divide_batch(images_per_step: int, world_size: int, at_most: int) -> tuple[int, int]:
    """Divide a step's images.

    Args:
        images_per_step: Images of one optimiser step, over all processes.
        world_size: Number of processes.
        at_most: Most images a process takes at a time.

    Returns:
        Images per process at a time, and how often a step: the fewest times possible.

    Raises:
        LaunchError: The images cannot be divided equally over the processes.
    """
    share, rest = divmod(images_per_step, world_size)
    if rest:
        raise LaunchError(
            f"{world_size} processes are to share {images_per_step} images a step",
            f"a number of processes that divides {images_per_step}",
            "launch another number of processes",
        )
    per_device = max(size for size in _divisors(share) if size <= max(at_most, 1))
    return per_device, share // per_device


def find_batch_size(model: PreTrainedModel, args: TrainingArguments, image_size: tuple[int, int]) -> int:
    """The most images at a time that training fits into memory, by trying.

    Forward and backward pass run on empty images, beside as much memory as AdamW and the exchange of gradients between
    processes will take. Weights, buffers and random state are left as they were.

    Args:
        model: The model to be trained.
        args: Gives device, precision, and the largest size to try, ``per_device_train_batch_size``.
        image_size: Height and width in pixels.

    Returns:
        The size: it divides ``per_device_train_batch_size * gradient_accumulation_steps`` and fits every process.

    Raises:
        LaunchError: Not even one image fits.
    """
    largest = args.per_device_train_batch_size
    sizes = [size for size in _divisors(largest * args.gradient_accumulation_steps) if size <= largest]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    model.to(args.device).train()
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
    devices = [args.device] if args.device.type != "cpu" else []
    with torch.random.fork_rng(devices, device_type=args.device.type if devices else "cuda"):
        fitting = next((size for size in reversed(sizes) if _fits(model, args, size, image_size)), 0)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    model.train(training)
    if PartialState().num_processes > 1:
        smallest = torch.tensor(fitting, device=args.device)
        torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
        fitting = int(smallest.item())
    if not fitting:
        raise LaunchError(
            f"one image of {image_size[0]} x {image_size[1]} pixels does not fit the memory of {args.device}",
            "memory for the model, its gradients and AdamW",
            "use --gradient_checkpointing, --bf16, --adaptation lora, or a smaller model or --image_size",
        )
    return fitting


def _fits(model: PreTrainedModel, args: TrainingArguments, size: int, image_size: tuple[int, int]) -> bool:
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    reserved: list[torch.Tensor] = []
    try:
        copies = 2 + (args.world_size > 1)  # AdamW's moments; buckets of gradients
        reserved = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad for _ in range(copies)]
        pixel_values = torch.zeros(size, 3, *image_size, device=args.device)
        with torch.autocast(args.device.type, dtype=dtype, enabled=dtype is not None):
            logits = model(pixel_values=pixel_values).logits
        labels = torch.zeros(size, dtype=torch.int64, device=args.device)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        return True
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        del reserved
        model.zero_grad(set_to_none=True)
        gc.collect()
        clear_device_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device's or the machine's memory is used up.

    oneDNN reports memory that it cannot get for its generated code or its scratchpad as a primitive that it "could not
    create" or "could not execute", and says no reason.
    """
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and (should_reduce_batch_size(error) or str(error).startswith(_ONEDNN_OUT_OF_MEMORY))
    )


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
