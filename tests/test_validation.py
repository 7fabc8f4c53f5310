from lib.history import AppliedMigration
from lib.plan import make_plan
from lib.validation import validate
from tests.kit import file


def test_what_is_unusual_of_an_applied_file_is_told_with_its_remedy() -> None:
    rows = [AppliedMigration(1, "001-a", "A"), AppliedMigration(2, "002-b", "B", checksum="")]
    found = validate(make_plan([file("001-a")], rows))
    assert found.warnings == (
        "001-a: applied without a checksum, so not verified\n"
        "  - to record the checksum of the file: scripts/migrate.py repair 001-a",
        "002-b: applied, but newer than every file here (an older build, after a rollback?)",
    )
