"""`python -m models.tables NAME`: one of the papers' tables."""

import sys

from models.tables.tables import main

if __name__ == "__main__":
    sys.exit(main())
