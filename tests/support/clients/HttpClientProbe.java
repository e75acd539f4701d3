import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Posts a clip with java.net.http.HttpClient as it is by default, so that each first request offers h2c.
 *
 * <p>Prints a line per request: what was sent, status, protocol version and body.
 */
public class HttpClientProbe {
  public static void main(String[] arguments) throws Exception {
    String base = arguments[0];
    Path clip = Path.of(arguments[1]);
    byte[] bytes = Files.readAllBytes(clip);
    send("raw", base, "video/mp4", BodyPublishers.ofFile(clip), HttpClient.newHttpClient());
    send("form", base, "multipart/form-data; boundary=xyz", BodyPublishers.ofByteArray(form(bytes)), HttpClient.newHttpClient());
    HttpClient kept = HttpClient.newHttpClient();
    for (String name : new String[] {"chunked", "chunked again"}) {
      BodyPublisher unsized = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes));
      send(name, base, "video/mp4", unsized, kept);
    }
  }

  static void send(String name, String base, String type, BodyPublisher body, HttpClient client) throws Exception {
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(base + "/v1/segment")).header("Content-Type", type).POST(body).build();
    HttpResponse<String> answer = client.send(request, BodyHandlers.ofString());
    System.out.println(String.join("\t", name, "" + answer.statusCode(), "" + answer.version(), answer.body().strip()));
  }

  static byte[] form(byte[] clip) throws Exception {
    ByteArrayOutputStream body = new ByteArrayOutputStream();
    String head = "Content-Disposition: form-data; name=\"video\"; filename=\"clip.mp4\"\r\nContent-Type: video/mp4\r\n\r\n";
    body.write(("--xyz\r\n" + head).getBytes());
    body.write(clip);
    body.write("\r\n--xyz--\r\n".getBytes());
    return body.toByteArray();
  }
}
