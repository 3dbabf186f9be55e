from qatune.cli import main

main()
