"""Which setting serves each arm of the page on restoration: a learning rate, a weight, a noise to expect.

By the mean PSNR on photographs that no network learns from and that judge nothing, with a seed that is not
used again; for each task by itself.
"""

import time

from fourfold import super_resolution, training
from fourfold.compared import restoration as compared
from fourfold.compared import restoration_task as given
from fourfold.recorded import arms, benchmark

NAME = "restoration_rates"
SEED = 7


def gain(arm: str, task: str, setting: object) -> float:
    """Mean gain over bicubic interpolation, dB."""
    pairs = given.seen(task, super_resolution.CHOOSE, SEED, compared.SIDE)
    made = compared.restored(compared.ARMS[arm].make(given.Given(task, SEED), setting), pairs.degraded)
    return compared.gain(made, pairs)


def main() -> None:
    """Sweep, print and keep."""
    training.deterministic()
    rows, began = [], time.process_time()
    for task in given.TASKS:
        for arm in compared.of_task(task):
            settings = compared.ARMS[arm].settings
            if isinstance(settings, str):
                continue
            found = arms.swept(settings, lambda setting, arm=arm, task=task: gain(arm, task, setting))
            rows += [{"task": task, "arm": arm, "setting": s, "gain": found[s]} for s in sorted(found)]
            shown = ", ".join(f"{setting}: {found[setting]:+.3f}" for setting in sorted(found))
            print(f"{task} {arm:>12} {shown}  {time.process_time() - began:.0f} s", flush=True)
    spent = round(time.process_time() - began)
    print(benchmark.keep(NAME, rows, seed=SEED, cpu_seconds=spent).name, spent)


if __name__ == "__main__":
    main()
