"""The same run with several seeds, and the mean of what they reach: one run of few images says little.

    hf-imgcls repeat photos/ --model_name_or_path facebook/dinov2-small --adaptation probe --shots_per_class 10
    hf-imgcls repeat outputs/photos_dinov2 --repeats 3      # a finished run with other seeds
    hf-imgcls repeat --config my.yaml --repeats 3 --launch_args "--config_file accelerate_config.yaml"

It takes the command line of finetune. Each run has a folder seed_0, seed_1 ... in --output_dir and is a run as any
other; --seed and, with --shots_per_class, the draw of the shots are another one in each. Validation and test stay what
they are. The same command goes on where it was stopped. `python recipes/repeat.py` takes the same command line.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from hf_imgcls.arguments.first_word import name_repeated_run
from hf_imgcls.arguments.parse import FINETUNE_GROUPS, parse_arguments
from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.errors import Interrupted, OutputError
from hf_imgcls.layout import REPEATS_FILE
from hf_imgcls.process import set_up_logging


def main() -> None:
    """Run the command line."""
    argv = name_repeated_run(sys.argv[1:])
    args = parse_arguments(argv, description=__doc__, groups=(*FINETUNE_GROUPS, "repeat"))
    set_up_logging(args)

    from hf_imgcls.measure.repeats import describe_repeats, summarise_repeats

    folder = Path(args.training["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    recipe = folder / "repeated.yaml"
    save_recipe(args, recipe)
    # Secrets are not in the recipe.
    token = args.hub_token or args.data.token
    environment = {**os.environ, **({"HF_TOKEN": token} if isinstance(token, str) else {})}
    launch = [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(args.fit.launch_args or "")]
    results = []
    for seed in range(args.fit.repeats):
        run = folder / f"seed_{seed}"
        flags = ["--config", recipe, "--output_dir", run, "--seed", seed]
        flags += ["--shots_seed", seed] * (args.data.shots_per_class is not None)
        print(f"\n=== {run}", file=sys.stderr, flush=True)
        code = subprocess.call([*launch, "-m", "hf_imgcls.commands", "finetune", *map(str, flags)], env=environment)
        if code == Interrupted.exit_code:
            sys.exit(code)
        if not (run / "test_results.json").exists() or code not in (0, 3):  # 3: a goal was missed, which is a result
            raise OutputError(f"{run} ended with exit code {code}", "a run that comes to its end", "see above")
        results.append(json.loads((run / "test_results.json").read_text()))
    summary = summarise_repeats(results)
    (folder / REPEATS_FILE).write_text(json.dumps(summary, indent=2) + "\n")
    print("", *describe_repeats(summary), sep="\n")
