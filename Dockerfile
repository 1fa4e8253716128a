# One image for every component of the pipeline on Kubeflow Pipelines:
#   docker build --tag REPOSITORY:TAG . && docker push REPOSITORY:TAG

# The full image has the compiler that a package without a wheel (pyfarmhash) needs.
FROM python:3.10 AS packages
COPY requirements/lane_a.txt .
RUN python -m venv /opt/venv
# The lock is complete and overrides one of TFX's pins, which pip's resolver would refuse: no-deps.
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement lane_a.txt

FROM python:3.10-slim
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
WORKDIR /opt/tfx-vim
COPY . .
# Editable, so that the presets in configs/ stay beside the code that reads them.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

# Kubeflow's launcher keeps artifacts here, as whichever user a cluster runs the image.
RUN mkdir --mode=1777 /gcs /minio /s3
USER 1000
# No ENTRYPOINT: the compiled pipeline brings its command, which kfp.local would append to one.
