"""Train and predict the named modules on two processes; each writes losses and predictions to the given folder."""

import json
import sys
from pathlib import Path

import mmrs_bench  # noqa: F401 - its torchvision guard comes before lightning

# isort: split
import torch
from helpers.module_cases import CASES, Losses, trainer


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    found = {}
    for case in (case for case in CASES if case.name in names):
        data = case.data()
        module, losses = case.build(data, **case.exact), Losses()
        own = trainer(folder, devices=2, strategy="ddp", callbacks=[losses])
        own.fit(module, datamodule=data)
        found[case.name] = {"losses": losses.values}
        if case.classifies:
            targets = [part.tolist() for part in own.predict(module, datamodule=data)]
            found[case.name]["targets"] = [target for part in targets for target in part]
            found[case.name]["test"] = own.test(module, datamodule=data, verbose=False)
    rank = torch.distributed.get_rank()
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
