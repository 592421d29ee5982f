def test_a(server, http, sdk, walk):
    assert http.get("/health").json() == {"status": "ok"}
    r = sdk.chat.completions.create(model="chat", messages=[{"role":"user","content":"hi"}], temperature=0, max_tokens=5)
    print(r)
    a = walk.ask("Hi")
    print(a)
