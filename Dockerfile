# The service as one image; the subcommand says which deployment it is.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin patient-notify

FROM debian:bookworm-slim
# libssl for the Kafka client, the authorities for everything that speaks TLS.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home patient-notify \
    && install -d -o patient-notify /var/lib/patient-notify
COPY --from=build /src/target/release/patient-notify /usr/local/bin/patient-notify
USER 10001
ENTRYPOINT ["patient-notify"]
CMD ["--help"]
