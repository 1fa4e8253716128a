"""Packaging of tfx-vim; Beam ships the same package to its workers with `--setup_file`."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="tfx-vim",
    version="0.1.0",
    description="Vector-quantized image modeling as a TFX pipeline, from images to served models",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # The presets are at the top of the checkout, where people read them, and are installed inside the
    # package.
    packages=[
        *find_packages(
            include=[
                f"{package}{below}"
                for package in ("tfx_pipeline", "components", "trainers", "serving")
                for below in ("", ".*")
            ]
        ),
        "tfx_pipeline.configs",
    ],
    package_dir={"tfx_pipeline.configs": "configs"},
    package_data={
        "tfx_pipeline": ["py.typed"],
        "tfx_pipeline.configs": ["*.yaml", "ablations/*.yaml"],
        "components": ["py.typed"],
        "components.run_report": ["*.html", "*.css", "*.js"],
        "trainers": ["py.typed"],
        "serving.demo": ["page.*"],
        "serving": ["py.typed", "deploy/*", "deploy/k8s/*/*.yaml", "deploy/k8s/overlays/*/*.yaml"],
    },
    python_requires=">=3.10,<3.14",
    # requirements/common.in, lane_a.in (Python 3.10) and lane_b.in (newer ones) hold the same, for the locks.
    install_requires=[
        "aiohttp",
        "apache-beam",
        "click",
        "dill",
        "grpcio",
        "grpcio-health-checking",
        "grpcio-reflection",
        "importlib-resources",
        "jinja2",
        "keras",
        "kfp",
        "matplotlib",
        "ml-metadata",
        "onnxruntime",
        "pillow",
        "pyarrow",
        "pydantic",
        "pyyaml",
        "rich",
        "scikit-learn",
        "setuptools<81",
        "tensorboard",
        "tensorflow-datasets",
        "tensorflow-serving-api==2.16.1; python_version < '3.11'",
        "tensorflow-serving-api==2.19.1; python_version >= '3.11'",
        "tensorflow==2.16.2; python_version < '3.11'",
        "tensorflow==2.21.0; python_version >= '3.11'",
        "tf-keras==2.16.0; python_version < '3.11'",
        "tf-keras==2.21.0; python_version >= '3.11'",
        "tfx==1.21.0; python_version >= '3.11'",
        "tfx[kfp]==1.16.0; python_version < '3.11'",
    ],
    entry_points={"console_scripts": ["tfx-vim = tfx_pipeline.cli:main"]},
)
