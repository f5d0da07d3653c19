package nodeattestor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestTokenSurvivesItsText(t *testing.T) {
	token := newToken(Pin{1, 2, 3})
	for _, text := range []string{token.Text(), "  " + token.Text() + "\r\n"} {
		again, err := ParseToken(text)
		if err != nil || again != token || again.Pin() != (Pin{1, 2, 3}) {
			t.Errorf("parsed %v, %v; want the same token", again, err)
		}
	}
}

func TestDamagedTokenIsRefusedWithoutRepeatingIt(t *testing.T) {
	good := newToken(Pin{1}).Text()
	parts := strings.Split(good, ".")
	for name, text := range map[string]string{
		"empty":              "",
		"other kind":         "pst2." + parts[1] + "." + parts[2],
		"pin missing":        "pst1." + parts[1],
		"one part too many":  good + ".x",
		"short secret":       "pst1." + parts[1][1:] + "." + parts[2],
		"long secret":        "pst1." + parts[1] + "A." + parts[2],
		"not base64url":      "pst1." + strings.Repeat("+", 43) + "." + parts[2],
		"line break inside":  "pst1." + parts[1][:20] + "\n" + parts[1][20:] + "." + parts[2],
		"trailing bits":      "pst1." + parts[1][:42] + "_." + parts[2],
		"far too long":       strings.Repeat("x", 10_000),
		"two lines":          good + "\n" + good,
		"white space inside": "pst1. " + parts[1] + "." + parts[2],
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseToken(text)
			if err == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(err.Error(), parts[1][:8]) {
				t.Errorf("error %q repeats the secret", err)
			}
		})
	}
}

func TestTokenHidesItself(t *testing.T) {
	token := newToken(Pin{1})
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("token", token), slog.Any("in", struct{ T Token }{token}))
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", slog.Any("token", &token))
	encoded, err := json.Marshal(map[string]any{"a": token, "b": []Token{token}})
	if err != nil {
		t.Fatal(err)
	}
	shown := log.String() + string(encoded) +
		fmt.Sprintf("%v %+v %#v %s %q %x %d %v", token, token, token, token, token, token, token, struct{ T Token }{token})
	secret := strings.Split(token.Text(), ".")[1]
	for _, form := range []string{secret, secret[:10], fmt.Sprintf("%x", token.secret), fmt.Sprintf("%d", token.secret[:3])} {
		if strings.Contains(shown, strings.Trim(form, "[]")) {
			t.Errorf("the secret shows in %q", shown)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(newToken(Pin{}).Text())
	f.Add("pst1..")
	f.Add("pst1.\n.\n")
	f.Add(newToken(Pin{9}).Text() + "=")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		// Each token has one text: what parses is what is written.
		if token.Text() != strings.TrimSpace(text) {
			t.Errorf("text %q parses and is written %q", text, token.Text())
		}
	})
}
