# SPDX-License-Identifier: Apache-2.0
"""The HTTP server (extra `serve`) and its client; docs/server.md describes both."""
