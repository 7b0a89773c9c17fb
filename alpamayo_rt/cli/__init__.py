# SPDX-License-Identifier: Apache-2.0
"""The command line: translates arguments into calls, and errors into one line and an exit status."""
