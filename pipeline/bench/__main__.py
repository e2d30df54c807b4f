"""The command: python -m pipeline.bench [options of against_trl.py]"""

from pipeline.bench.against_trl import main

if __name__ == "__main__":
    main()
