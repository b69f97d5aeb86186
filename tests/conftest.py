"""What every test shares: reproducible property tests and one thread."""

import hypothesis
import torch

# The same examples on every machine: a red test is then a change of ours, never luck.
hypothesis.settings.register_profile("fourfold", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fourfold")
torch.set_num_threads(1)
