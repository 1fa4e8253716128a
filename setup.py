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
        "components.run_report": ["*.html"],
        "trainers": ["py.typed"],
        "serving": ["py.typed", "deploy/*", "deploy/k8s/*"],
    },
    # TFX 1.16 runs on 3.9 and 3.10, and this code needs 3.10.
    python_requires=">=3.10,<3.11",
    # requirements/lane_a.in holds the same, for the lock, with the tools of a developer.
    install_requires=[
        "aiohttp",
        "apache-beam",
        "click",
        "grpcio",
        "jinja2",
        "keras",
        "kfp",
        "matplotlib",
        "ml-metadata",
        "pillow",
        "pyarrow",
        "pydantic",
        "pyyaml",
        "rich",
        "scikit-learn",
        "tensorflow==2.16.2",
        "tensorflow-datasets",
        "tensorflow-serving-api==2.16.1",
        "tfx[kfp]==1.16.0",
        # Needed by the releases above, and not declared by them.
        "dill",
        "setuptools<81",
        "tf-keras==2.16.0",
    ],
    entry_points={"console_scripts": ["tfx-vim = tfx_pipeline.cli:main"]},
)
