# SPDX-License-Identifier: Apache-2.0
"""The network in plain torch. Nothing here knows of files, engines, caches or requests."""
