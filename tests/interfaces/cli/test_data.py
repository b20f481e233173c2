from paligemma.interfaces.cli import main


def test_data_is_a_command_of_its_own(capsys):
    assert main(["data", "--help"]) == 0
    assert "paligemma data" in capsys.readouterr().out
