"""python train.py fit --config config.yaml"""

from agreement import Agreement, Sentences
from lightning.pytorch.cli import LightningCLI


def main(args=None):
    return LightningCLI(Agreement, Sentences, seed_everything_default=0, args=args)


if __name__ == "__main__":
    main()
