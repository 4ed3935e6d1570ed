# syntax=docker/dockerfile:1
# The service as one image; the subcommand says which deployment it is.
#
#   docker build -t registry.example.org/pat/patient-notify:0.1.0 .

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
# The caches stay with the builder: another build compiles what has changed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin patient-notify \
    && strip --output /patient-notify target/release/patient-notify

# What the program needs of an operating system, and nothing else: no shell, no package
# manager, nothing that could be updated in place.
FROM debian:12.12-slim AS root
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 tzdata zlib1g
COPY --from=build /patient-notify /usr/local/bin/patient-notify
COPY scripts/image-root.sh /
RUN /image-root.sh /usr/local/bin/patient-notify /root-of-image

FROM scratch
LABEL org.opencontainers.image.title="patient-notify" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=root /root-of-image /
ENV PATH=/usr/local/bin
USER 10001:10001
# The front, and probes with metrics.
EXPOSE 9080 9090
ENTRYPOINT ["patient-notify"]
CMD ["--help"]
