import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.List;

/** Sends the given body with Java's HTTP client as it comes, and prints status, version and length of each answer. */
class Infer {
    public static void main(String[] arguments) throws Exception {
        URI uri = URI.create(arguments[0]);
        byte[] body = arguments[1].getBytes(StandardCharsets.UTF_8);
        HttpClient client = HttpClient.newHttpClient();
        List<HttpRequest.BodyPublisher> forms =
            List.of(
                HttpRequest.BodyPublishers.ofByteArray(body),
                HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body)),
                HttpRequest.BodyPublishers.ofByteArray(body));
        for (HttpRequest.BodyPublisher form : forms) {
            HttpRequest request = HttpRequest.newBuilder(uri).POST(form).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body().length());
        }
    }
}
