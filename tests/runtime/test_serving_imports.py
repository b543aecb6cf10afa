"""The serving process stays light: what it has imported is listed and held to the walls."""

import subprocess
import sys

BANNED = ("torch", "mlflow", "prefect", "pandas", "statsmodels", "sklearn", "matplotlib")


def test_the_furnished_worker_has_imported_no_training_library() -> None:
    code = (
        "import sys\n"
        "import forecastle.runtime.wiring, forecastle.runtime.worker, forecastle.predict.onnx, onnxruntime, kafka\n"
        "import forecastle.clouds.sim, forecastle.runtime.records\n"
        "print(sorted(m for m in sys.modules if '.' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    assert loaded & set(BANNED) == set()
    assert {"onnxruntime", "kafka", "numpy"} <= loaded


def test_importing_the_package_loads_no_third_party_at_all() -> None:
    code = "import sys\nbefore = set(sys.modules)\nimport forecastle\nprint(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert eval(done.stdout) == ["forecastle"]
