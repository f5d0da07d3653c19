# The image of postern: the static binary on nothing. "make image" builds the binary for the platform first, puts it and the folders
# below into bin/, and then builds this file; there is no base image to pull and no compiler in the build.
#
#   docker run -v postern:/var/lib/postern -v /run/postern:/run/postern postern:VERSION run
FROM scratch

ARG TARGETARCH
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="postern" \
      org.opencontainers.image.description="Machine identity, and a proxy that authorizes every request with it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"

# State (keys, entries, audit log), which only the user below can enter, and the folder of the sockets, open because each caller is
# attested. The modes are those that make gave the folders.
COPY --chown=65532:65532 bin/rootfs/var/lib/ /var/lib/
COPY --chown=65532:65532 bin/rootfs/run/ /run/
COPY --chmod=0755 bin/linux-${TARGETARCH}/postern /usr/bin/postern

# Without a configuration file, "postern run" keeps its state in /var/lib/postern and its sockets in /run/postern.
ENV XDG_STATE_HOME=/var/lib XDG_RUNTIME_DIR=/run
USER 65532:65532
VOLUME ["/var/lib/postern"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/bin/postern", "healthcheck"]
ENTRYPOINT ["/usr/bin/postern"]
CMD ["run"]
