#!/usr/bin/env python
"""``hf-imgcls export`` as a script: python recipes/export.py outputs/digits_vit --formats onnx openvino."""

from hf_imgcls.commands.command import run_recipe
from hf_imgcls.commands.export import main

if __name__ == "__main__":
    run_recipe(main)
