import pytest

from asks import CHAT, EMBEDDINGS


def test_the_list_names_both_models(client):
    assert {CHAT, EMBEDDINGS} <= {model.id for model in client.models.list()}


@pytest.mark.parametrize("name", [CHAT, EMBEDDINGS])
def test_one_model_can_be_asked_for(client, name):
    model = client.models.retrieve(name)
    assert model.id == name
    assert model.object == "model"
    assert model.created > 0
    assert model.owned_by
