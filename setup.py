"""Packaging of tfx-vim; Beam ships the same package to its workers with `--setup_file`."""

from setuptools import find_packages, setup

setup(
    name="tfx-vim",
    version="0.1.0",
    description="Vector-quantized image modeling as a TFX pipeline, from images to served models",
    packages=find_packages(
        include=[
            "tfx_pipeline",
            "tfx_pipeline.*",
            "components",
            "components.*",
            "trainers",
            "trainers.*",
            "serving",
            "serving.*",
        ]
    ),
    package_data={"components.run_report": ["*.html"]},
    python_requires=">=3.10",
    entry_points={"console_scripts": ["tfx-vim = tfx_pipeline.cli:main"]},
)
