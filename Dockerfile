# One image for every component of the pipeline on Kubeflow Pipelines, with the releases of lane B:
#   make image IMAGE=REPOSITORY:TAG ACCELERATOR=cpu     # or gpu, tpu
ARG BASE=python:3.13

# The full image has the compiler that a package without a wheel (pyfarmhash) needs.
FROM ${BASE}-trixie AS packages
ARG ACCELERATOR=cpu
COPY requirements/image_${ACCELERATOR}.txt lock.txt
RUN python -m venv /opt/venv
# The lock is complete, and for TPUs overrides what asks for tensorflow, which pip's resolver would refuse: no-deps.
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement lock.txt

FROM ${BASE}-slim-trixie
ARG ACCELERATOR=cpu
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tfx-vim" \
      org.opencontainers.image.description="Components of the tfx-vim pipeline, for ${ACCELERATOR}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
WORKDIR /opt/tfx-vim
COPY setup.py pyproject.toml README.md ./
COPY configs configs
COPY components components
COPY serving serving
COPY tfx_pipeline tfx_pipeline
COPY trainers trainers
# Editable, so that the presets in configs/ stay beside the code that reads them.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

# Kubeflow's launcher keeps artifacts here, as whichever user a cluster runs the image.
RUN mkdir --mode=1777 /gcs /minio /s3
USER 1000
# No ENTRYPOINT: the compiled pipeline brings its command, which kfp.local would append to one.
