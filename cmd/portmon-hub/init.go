package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/portmon/portmon/internal/fleet/wire"
	"github.com/portmon/portmon/internal/folder"
)

func initCommand(p *cli) *cobra.Command {
	var urls []string
	cmd := &cobra.Command{
		Use:   "init --url tls://NAME:PORT",
		Short: "make the keys and the configuration of a new hub",
		Long: `Init makes the keys of a hub and its configuration, hub.toml, in a folder that
only its owner can read. It replaces nothing that is there.`,
		Example: "  portmon-hub init --url tls://hub.example.net:4222",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, u := range urls {
				if err := wire.CheckURL(u); err != nil {
					return &usageError{fmt.Errorf("--url %q: %w", u, err), cmd.CommandPath()}
				}
			}
			if len(urls) == 0 {
				return &usageError{errors.New("missing --url: where hosts reach this hub"), cmd.CommandPath()}
			}
			if err := initialise(p.dir, urls); err != nil {
				return fmt.Errorf("initialise %s: %w", p.dir, err)
			}
			p.note("wrote %s; hosts will reach the hub at %s", filepath.Join(p.dir, configFile), strings.Join(urls, ", "))
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&urls, "url", nil, "where hosts reach this hub, as a `URL`; more than once for several hubs")
	return cmd
}

// initialise writes the files of a hub, the configuration last.
func initialise(dir string, urls []string) error {
	d, err := folder.Make(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	lock, err := d.Lock(configFile+".lock", 0)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := d.Stat(configFile); !errors.Is(err, fs.ErrNotExist) {
		return hint("remove the folder if that hub is to be forgotten, with all its hosts", "%s: %w", configFile, errors.Join(err, fs.ErrExist))
	}
	hub, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	seed, err := hub.Seed()
	if err != nil {
		return err
	}
	cert, key, err := newAuthority()
	if err != nil {
		return err
	}
	quoted := make([]string, len(urls))
	for i, u := range urls {
		quoted[i] = `"` + u + `"`
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{seedFile, append(seed, '\n')}, {caFile, cert}, {caKeyFile, key}, {tokenFile, []byte(rand.Text() + "\n")},
		{configFile, fmt.Appendf(nil, defaultConfig, "["+strings.Join(quoted, ", ")+"]")},
	} {
		if err := d.WriteFile(f.name, f.data); err != nil {
			return err
		}
	}
	return nil
}

// lifetime is that of all certificates: hosts pin the key, and go on with it.
const lifetime = 30 * 365 * 24 * time.Hour

func newAuthority() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "portmon-hub authority"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
	}, nil, private, private)
	if err != nil {
		return nil, nil, err
	}
	der8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der8}), nil
}

// sign returns a certificate by an authority, or by itself.
func sign(template, by *x509.Certificate, key, signer *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber, template.BasicConstraintsValid = serial, true
	template.NotBefore, template.NotAfter = time.Now().Add(-365*24*time.Hour), time.Now().Add(lifetime) // of hosts with a wrong clock, too
	if by == nil {
		by = template
	}
	return x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
}

var errKey = errors.New("not a key that `portmon-hub init` made")

func readCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errKey
	}
	return x509.ParseCertificate(block.Bytes)
}

func pinOf(ca []byte) (string, error) {
	cert, err := readCertificate(ca)
	if err != nil {
		return "", err
	}
	return wire.Pin(cert), nil
}

// serverTLS returns what the server in this program says it is: a certificate
// made for this run, by the authority in the folder.
func serverTLS(dir string) (*tls.Config, error) {
	d, err := folder.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	certPEM, err := d.ReadFile(caFile, maxFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := folder.ReadSecret(dir, caKeyFile, maxFile)
	if err != nil {
		return nil, err
	}
	ca, err := readCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errKey
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	authority, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errKey
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "portmon-hub"}, DNSNames: []string{"portmon-hub"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key, authority)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leaf, ca.Raw}, PrivateKey: key}},
	}, nil
}
