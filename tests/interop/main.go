// A peer that speaks the wire contract as the Go agents do, with crypto/tls and grpc-go: the other side of the
// interoperability tests.
//
//	peer certificates DIR          write caPem, certPem and keyPem by the recipe of the original
//	peer serve DIR ADDRESS [MODE]  answer; prints the address it listens on
//	peer ask DIR ADDRESS NODE      ask; prints the status, or the gRPC code
//	peer dial DIR ADDRESS MODE     try a handshake that must fail; prints what became of it
//
// Node names that are asked about say what is answered: healthy, unhealthy, api-error, anything else an error.
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	serverName = "192.0.2.1"
	service    = "selfnoderemediation.health.PeerHealth"
	method     = "/" + service + "/IsHealthy"
)

// The messages of the original: it knows neither order_uid nor acknowledged_uid.
func messages() (request, response protoreflect.MessageDescriptor, err error) {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{
			Name: proto.String(name), Number: proto.Int32(number), Type: kind.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("peer.proto"), Package: proto.String("selfnoderemediation.health"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("HealthRequest"), Field: []*descriptorpb.FieldDescriptorProto{
				field("nodeName", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING),
				field("machineName", 2, descriptorpb.FieldDescriptorProto_TYPE_STRING),
			}},
			{Name: proto.String("HealthResponse"), Field: []*descriptorpb.FieldDescriptorProto{
				field("status", 1, descriptorpb.FieldDescriptorProto_TYPE_INT32),
			}},
		},
	}
	built, err := protodesc.NewFile(file, nil)
	if err != nil {
		return nil, nil, err
	}
	all := built.Messages()
	return all.ByName("HealthRequest"), all.ByName("HealthResponse"), nil
}

func text(message *dynamicpb.Message, name protoreflect.Name) string {
	return message.Get(message.Descriptor().Fields().ByName(name)).String()
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	argument := func(index int) string {
		if index < len(args) {
			return args[index]
		}
		return ""
	}
	switch argument(0) {
	case "certificates":
		return certificates(argument(1))
	case "serve":
		return serve(argument(1), argument(2), argument(3))
	case "ask":
		return ask(argument(1), argument(2), argument(3))
	case "dial":
		return dial(argument(1), argument(2), argument(3))
	}
	return errors.New("usage: peer certificates|serve|ask|dial DIR ...")
}

// RSA-4096 CA and certificate, equal serial numbers and subjects, PKCS#1 key; the CA's key is thrown away.
func certificates(dir string) error {
	template := func() *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(12345),
			Subject:      pkix.Name{Organization: []string{"medik8s"}},
			NotBefore:    time.Now(),
			NotAfter:     time.Now().AddDate(10, 0, 0),
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
			KeyUsage:     x509.KeyUsageDigitalSignature,
		}
	}
	ca := template()
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage |= x509.KeyUsageCertSign
	caKey, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return err
	}
	caDer, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	leaf := template()
	leaf.IPAddresses = []net.IP{net.ParseIP(serverName)}
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name, kind string
		content    []byte
	}{
		{"caPem", "CERTIFICATE", caDer},
		{"certPem", "CERTIFICATE", der},
		{"keyPem", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)},
	} {
		block := pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.content})
		if err := os.WriteFile(filepath.Join(dir, file.name), block, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func load(dir string) (*x509.CertPool, tls.Certificate, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "caPem"))
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, tls.Certificate{}, errors.New("no CA certificate")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "certPem"), filepath.Join(dir, "keyPem"))
	return pool, pair, err
}

func serverConfig(dir string) (*tls.Config, error) {
	pool, pair, err := load(dir)
	return &tls.Config{
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS13,
	}, err
}

func clientConfig(dir string) (*tls.Config, error) {
	pool, pair, err := load(dir)
	return &tls.Config{
		RootCAs:      pool,
		Certificates: []tls.Certificate{pair},
		ServerName:   serverName,
		MinVersion:   tls.VersionTLS13,
	}, err
}

// MODE: nothing; "no-alpn" and "tls12" are peers that must be refused.
func serve(dir, address, mode string) error {
	config, err := serverConfig(dir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	switch mode {
	case "tls12":
		config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		config.NextProtos = []string{"h2"}
		return handshakes(listener, config)
	case "no-alpn":
		return handshakes(listener, config)
	}
	request, response, err := messages()
	if err != nil {
		return err
	}
	answer := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		question := dynamicpb.NewMessage(request)
		if err := decode(question); err != nil {
			return nil, err
		}
		statuses := map[string]int32{"healthy": 1, "unhealthy": 2, "api-error": 3}
		code, known := statuses[text(question, "nodeName")]
		if !known {
			return nil, fmt.Errorf("unknown node %q", text(question, "nodeName"))
		}
		message := dynamicpb.NewMessage(response)
		message.Set(response.Fields().ByName("status"), protoreflect.ValueOfInt32(code))
		return message, nil
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "IsHealthy", Handler: answer}},
	}, struct{}{})
	return server.Serve(listener)
}

// Completes handshakes and then says nothing.
func handshakes(listener net.Listener, config *tls.Config) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			session := tls.Server(connection, config)
			if session.Handshake() == nil {
				time.Sleep(time.Minute)
			}
			session.Close()
		}()
	}
}

func ask(dir, address, node string) error {
	config, err := clientConfig(dir)
	if err != nil {
		return err
	}
	request, response, err := messages()
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	question := dynamicpb.NewMessage(request)
	question.Set(request.Fields().ByName("nodeName"), protoreflect.ValueOfString(node))
	answer := dynamicpb.NewMessage(response)
	if err := connection.Invoke(ctx, method, question, answer); err != nil {
		fmt.Println(status.Code(err))
		return nil
	}
	fmt.Println(answer.Get(response.Fields().ByName("status")).Int())
	return nil
}

// A handshake that the other side must refuse: by version, without ALPN, without a certificate.
func dial(dir, address, mode string) error {
	config, err := clientConfig(dir)
	if err != nil {
		return err
	}
	config.NextProtos = []string{"h2"}
	switch mode {
	case "tls12":
		config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	case "no-alpn":
		config.NextProtos = nil
	case "no-certificate":
		config.Certificates = nil
	case "good":
	default:
		return fmt.Errorf("unknown mode %q", mode)
	}
	connection, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, config)
	if err != nil {
		fmt.Println("refused:", err)
		return nil
	}
	defer connection.Close()
	// In TLS 1.3 the client's part is judged after its handshake: a refusal comes with the first read.
	if err := connection.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := connection.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		fmt.Println("refused:", err)
		return nil
	}
	fmt.Println("accepted")
	return nil
}
