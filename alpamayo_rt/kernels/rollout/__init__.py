# SPDX-License-Identifier: Apache-2.0
"""What a rollout remembers between decode passes, kept on the device."""
