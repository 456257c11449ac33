// The peer of signer_bench.py: the same signature over HTTP, by Go's net/http in one process that holds the key.
package main

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"io"
	"net/http"
	"os"
)

func main() {
	key, uuid := make([]byte, 64), make([]byte, 16)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		mac := hmac.New(sha512.New, key)
		mac.Write(uuid)
		io.WriteString(mac, r.FormValue("content"))
		w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
		io.WriteString(w, base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	})
	panic(http.ListenAndServe(os.Args[1], nil))
}
