"""`python -m model`: the model's commands without the service, for training machines and torchrun."""

from model.cli.main import app

if __name__ == "__main__":
    app()
