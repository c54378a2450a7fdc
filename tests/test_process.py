"""What a process sets up for itself, and leaves behind."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import torch.distributed as group
from hf_imgcls.process import end_process_group

end_process_group()  # without a group: nothing to do
group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
group.new_group(backend="gloo")
end_process_group()
print(group.is_initialized())
"""


def test_the_process_group_of_a_run_on_cpus_ends_with_it():
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
    assert "destroy_process_group" not in ended.stderr
