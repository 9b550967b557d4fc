from pathlib import Path

extensions_dir = str(Path(__file__).resolve().parents[2] / "extensions")
models_path = str(Path(__file__).resolve().parents[2] / "models")
