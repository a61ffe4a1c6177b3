"""An audit as SARIF 2.1.0: alerts, rules, places and texts, put together in :mod:`reports.sarif.log`."""
